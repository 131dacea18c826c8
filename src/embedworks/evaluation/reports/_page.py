"""Style sheet, script and frame of the report page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from embedworks.evaluation.reports._html import esc, section

__all__ = ["frame", "page"]

_STYLE = """
:root{color-scheme:light dark;--paper:#fcfbf8;--raised:#fff;--ink:#1b1d21;--soft:#565b63;
--line:#dedbd3;--own:#0b5cad;--own-wash:#e8f0f9;--mute:#7c828b;--good:#0b5cad;--bad:#a8380b;
--g0:#0b62b8;--g1:#c2570a;--g2:#1a7a4c;--g3:#a8407f;--g4:#1f8fb0;--g5:#7a5c00;--g6:#5b4bb5;
--g7:#8c1d2f;--g8:#aaa69c}
@media (prefers-color-scheme:dark){:root{--paper:#15171b;--raised:#1b1e23;--ink:#e9e7e2;
--soft:#a9aeb7;--line:#33373e;--own:#6cb2f7;--own-wash:#1c2c3e;--mute:#8b919b;--good:#6cb2f7;
--bad:#f2936a;--g0:#62acf5;--g1:#f0a04b;--g2:#4dbf8b;--g3:#e38cc1;--g4:#5fd0e6;--g5:#d9c04d;
--g6:#a79bf2;--g7:#f07f8b;--g8:#5d626b}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1060px;margin:0 auto;padding:0 24px}
header{padding-top:56px}
.kicker{margin:0 0 6px;color:var(--soft);font-size:14px}
h1{margin:0 0 18px;font-size:clamp(24px,4vw,34px);line-height:1.2;letter-spacing:-.015em;
overflow-wrap:anywhere}
.verdict{margin:0 0 26px;max-width:46em;font-size:clamp(18px,2.4vw,22px);line-height:1.45;
padding-left:18px;border-left:4px solid var(--own)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:1px;
margin:0 0 24px;background:var(--raised);border:1px solid var(--line);border-radius:10px;
overflow:hidden}
.figures div{box-shadow:0 0 0 1px var(--line);padding:14px 18px}
.figures dt{color:var(--soft);font-size:13px}
.figures dd{margin:2px 0 0;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin-top:28px;padding:10px 0;
border-block:1px solid var(--line);font-size:14px}
a{color:var(--own)}
nav a{text-decoration:none;padding:4px 0}
nav a:hover{text-decoration:underline}
section{margin:48px 0 0}
h2{margin:0 0 14px;font-size:22px;letter-spacing:-.01em}
h3{margin:26px 0 8px;font-size:16px}
p{margin:0 0 12px;max-width:46em}
.note{color:var(--soft);font-size:14px}
.notes{margin:22px 0 0;padding:12px 18px 12px 34px;border:1px solid var(--line);
border-radius:10px;background:var(--raised);font-size:15px}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(290px,100%),1fr));gap:18px;
margin:0 0 14px}
.panels.wide{grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr))}
figure{margin:0;padding:14px 14px 8px;border:1px solid var(--line);border-radius:10px;
background:var(--raised)}
figcaption{margin:6px 2px 4px;color:var(--soft);font-size:14px}
svg{display:block;width:100%;height:auto;max-width:560px;margin:0 auto}
svg.map{max-width:none}
svg text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--ink);
font-variant-numeric:tabular-nums}
svg .title{font-weight:600;font-size:14.5px}
svg .tick,svg .axis{fill:var(--soft);font-size:12px}
svg .label,svg .value{paint-order:stroke;stroke:var(--raised);stroke-width:4px;
stroke-linejoin:round}
svg .label.own,svg .value.own{font-weight:600;fill:var(--own)}
svg .grid{stroke:var(--line);stroke-width:1}
svg .range{stroke-width:3;stroke-linecap:round}
svg .range.own{stroke:var(--own)}svg .range.other{stroke:var(--mute)}
svg .dot{stroke:var(--raised);stroke-width:1.5}
svg .dot.own{fill:var(--own)}svg .dot.other{fill:var(--mute)}
svg .curve{fill:none;stroke:var(--own);stroke-width:2.2;stroke-linejoin:round}
svg .curve-dot{fill:var(--own)}
svg .chosen{stroke:var(--own);stroke-width:1.4;stroke-dasharray:4 4}
svg .frame{fill:none;stroke:none}
svg .pt{fill-opacity:.75}
svg.focus .pt{opacity:.07}svg.focus .pt.on{opacity:1}
svg .group-name{font-weight:650;font-size:15px;fill:var(--ink);paint-order:stroke;
stroke:var(--raised);stroke-width:5px;stroke-linejoin:round;pointer-events:none}
.g0{fill:var(--g0)}.g1{fill:var(--g1)}.g2{fill:var(--g2)}.g3{fill:var(--g3)}.g4{fill:var(--g4)}
.g5{fill:var(--g5)}.g6{fill:var(--g6)}.g7{fill:var(--g7)}.g8{fill:var(--g8)}
.legend{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 10px;padding:0;list-style:none}
.legend button{display:flex;align-items:center;gap:7px;padding:4px 11px 4px 8px;font:inherit;
font-size:14px;color:var(--ink);background:none;border:1px solid var(--line);border-radius:99px;
cursor:pointer;text-align:left;overflow-wrap:anywhere}
.legend button[aria-pressed=true]{background:var(--own-wash);border-color:var(--own)}
.legend svg{width:14px;height:14px;margin:0;flex:none}
.legend span{color:var(--soft);font-variant-numeric:tabular-nums}
#tip{position:fixed;z-index:9;max-width:320px;padding:6px 10px;border-radius:6px;
background:var(--ink);color:var(--paper);font-size:13.5px;line-height:1.35;pointer-events:none;
overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:0 0 14px;border:1px solid var(--line);border-radius:10px;
background:linear-gradient(90deg,var(--raised) 30%,transparent) left/40px 100% local no-repeat,
linear-gradient(270deg,var(--raised) 30%,transparent) right/40px 100% local no-repeat,
linear-gradient(90deg,var(--line),transparent) left/12px 100% scroll no-repeat,
linear-gradient(270deg,var(--line),transparent) right/12px 100% scroll no-repeat var(--raised)}
table{border-collapse:collapse;width:100%;font-size:15px}
caption{max-width:calc(100vw - 48px)}
caption{padding:12px 14px 8px;text-align:left;color:var(--soft);font-size:14px}
th,td{padding:9px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--line);
unicode-bidi:isolate}
thead th{border-top:0;border-bottom:1px solid var(--line);font-size:13.5px;font-weight:600;
color:var(--soft);vertical-align:bottom}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:8em}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.num small{display:block;color:var(--soft);font-size:13px}
tr.own{background:var(--own-wash)}
tr.own th,tr.own .num{font-weight:600}tr.own small{font-weight:400}
thead button{all:unset;cursor:pointer}
thead button:hover{text-decoration:underline}
thead button:focus-visible{outline:2px solid var(--own);outline-offset:3px}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
.up{color:var(--good);font-weight:600}.down{color:var(--bad);font-weight:600}
.same{color:var(--soft)}
.failures{margin:0;padding:0;list-style:none;counter-reset:f}
.failures>li{counter-increment:f;padding:16px 0 14px;border-top:1px solid var(--line)}
.failures h3{margin:0;display:flex;gap:10px;font-size:16.5px;overflow-wrap:anywhere}
.failures h3::before{content:counter(f);min-width:1.4em;color:var(--soft);font-weight:400}
.failures .note{margin:2px 0 8px 2.1em}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));
gap:10px 30px;margin-left:2.1em}
.two h4{margin:0 0 4px;font-size:13px;font-weight:600;color:var(--soft)}
.two ul{margin:0;padding:0;list-style:none;font-size:15px}
.two li{display:grid;grid-template-columns:3.6em minmax(0,1fr) auto;gap:10px;padding:3px 0;
overflow-wrap:anywhere;unicode-bidi:isolate}
.two li span{color:var(--soft);font-size:14px;font-variant-numeric:tabular-nums}
.two li b{font-weight:600}
.bars{width:100%;min-width:120px;height:22px;max-width:none}
.bars .plan{fill:var(--mute);opacity:.45}.bars .real{fill:var(--own)}
dl.facts{display:grid;grid-template-columns:minmax(9em,max-content) minmax(0,1fr);
gap:6px 24px;margin:0 0 14px;font-size:15px}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
code,pre{font:13.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
details{margin:0 0 12px;border:1px solid var(--line);border-radius:10px;background:var(--raised)}
summary{padding:10px 16px;cursor:pointer;font-weight:500}
details pre{margin:0;padding:4px 16px 14px;overflow-x:auto}
details .scroll{border:0;margin:0}
.panels>.scroll{margin:0;align-self:start}
footer{padding-block:44px 40px;color:var(--soft);font-size:14px}
svg .line{fill:none;stroke-width:2.2;stroke-linejoin:round}
svg .zero{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:3 3}
svg .l0{stroke:var(--g0)}svg .l1{stroke:var(--g1)}svg .l2{stroke:var(--g2)}svg .l3{stroke:var(--g3)}
svg .l4{stroke:var(--g4)}svg .l5{stroke:var(--g5)}svg .l6{stroke:var(--g6)}svg .l7{stroke:var(--g7)}
.best{color:var(--own);font-weight:600}.tied{color:var(--own)}
.filters{display:flex;flex-wrap:wrap;gap:8px 16px;margin:0 0 12px;font-size:14px}
.filters select{font:inherit;max-width:100%;padding:4px 8px;color:var(--ink);
background:var(--raised);border:1px solid var(--line);border-radius:6px}
table.wide tbody th{position:sticky;left:0;background:var(--raised);min-width:min(11em,34vw)}
table.wide th,table.wide td{padding-left:10px;padding-right:10px}
table.wide tr.own th{background:var(--own-wash)}
table.wide th small{display:block;color:var(--soft);font-weight:400;font-size:13px}
details.failure{margin:0 0 6px}
details.failure summary{overflow-wrap:anywhere}
details.failure summary small{color:var(--soft);font-weight:400;font-size:13px;margin-left:8px}
details.failure .failures{padding:0 16px}
details.failure .failures h3{font-size:15.5px;font-weight:500}
details.failure .two li{display:block}
details>.facts,details>h3{margin:10px 16px 14px}
@media (max-width:560px){main,header,footer{padding-inline:16px}header{padding-top:32px}
.two,.failures .note{margin-left:0}th,td{padding:8px 10px}
dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:8px}
svg .group-name{font-size:26px}figure{padding:10px 8px 6px}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{:root{--paper:#fff;--raised:#fff;--ink:#000;--soft:#444;--line:#bbb;--own:#0b5cad;
--own-wash:#eef4fa;--mute:#777;--good:#0b5cad;--bad:#a8380b;color-scheme:light}
nav,#tip{display:none}body{font-size:11pt}section{margin-top:26pt}
header{padding-top:0}figure,.failures>li,tr{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}}
"""

_SCRIPT = """
(function(){
"use strict";
document.querySelectorAll("table.sortable").forEach(function(table){
  var body=table.tBodies[0];
  Array.prototype.forEach.call(table.tHead.rows[0].cells,function(head,column){
    var button=document.createElement("button");
    button.type="button";
    while(head.firstChild)button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click",function(){
      var down=head.getAttribute("aria-sort")!=="descending";
      Array.prototype.forEach.call(table.tHead.rows[0].cells,function(cell){
        cell.removeAttribute("aria-sort");});
      head.setAttribute("aria-sort",down?"descending":"ascending");
      var rows=Array.prototype.slice.call(body.rows);
      rows.sort(function(a,b){
        var x=a.cells[column].textContent.trim(),y=b.cells[column].textContent.trim();
        var m=parseFloat(x.replace(/,/g,"")),n=parseFloat(y.replace(/,/g,""));
        var order=isNaN(m)||isNaN(n)?x.localeCompare(y):m-n;
        return down?-order:order;});
      rows.forEach(function(row){body.appendChild(row);});
    });
  });
});
var map=document.querySelector("svg.map");
if(map){
  var tip=document.createElement("div"),points=[];
  tip.id="tip";tip.hidden=true;document.body.appendChild(tip);
  map.querySelectorAll("use").forEach(function(use){
    var title=use.querySelector("title");
    points.push([use.x.baseVal.value,use.y.baseVal.value,title.textContent,use.parentNode]);
    title.remove();
  });
  map.addEventListener("pointermove",function(event){
    var box=map.getBoundingClientRect(),scale=map.viewBox.baseVal.width/box.width;
    var x=(event.clientX-box.left)*scale,y=(event.clientY-box.top)*scale;
    var best=null,least=Math.pow(14*Math.max(1,scale*.8),2);
    var focus=map.classList.contains("focus");
    points.forEach(function(p){
      if(focus&&!p[3].classList.contains("on"))return;
      var d=(p[0]-x)*(p[0]-x)+(p[1]-y)*(p[1]-y);
      if(d<least){least=d;best=p;}});
    tip.hidden=!best;
    if(best){
      tip.textContent=best[2];
      tip.style.left=Math.max(4,Math.min(event.clientX+14,innerWidth-tip.offsetWidth-8))+"px";
      tip.style.top=Math.max(4,event.clientY-tip.offsetHeight-12)+"px";
    }
  });
  map.addEventListener("pointerleave",function(){tip.hidden=true;});
  document.querySelectorAll(".legend button").forEach(function(button){
    button.addEventListener("click",function(){
      var on=button.getAttribute("aria-pressed")!=="true";
      button.setAttribute("aria-pressed",String(on));
      var chosen=document.querySelectorAll(".legend button[aria-pressed=true]");
      map.classList.toggle("focus",chosen.length>0);
      map.querySelectorAll("g.pt").forEach(function(group){
        group.classList.remove("on");
        chosen.forEach(function(other){
          if(other.dataset.group===group.dataset.group)group.classList.add("on");});});
    });
  });
}
var failed=document.querySelectorAll("details.failure"),bar=document.querySelector(".filters");
if(bar&&failed.length){
  var chosen={};
  var count=document.createElement("span");
  count.className="note";
  var apply=function(){
    var shown=0;
    failed.forEach(function(item){
      var off=Object.keys(chosen).some(function(key){
        return chosen[key]&&item.dataset[key]!==chosen[key];});
      item.hidden=off;
      if(!off)shown++;});
    count.textContent=shown+" of "+failed.length+" lists";
  };
  ["task","system"].forEach(function(key){
    var label=document.createElement("label"),select=document.createElement("select"),seen=[];
    failed.forEach(function(item){
      if(seen.indexOf(item.dataset[key])<0)seen.push(item.dataset[key]);});
    select.add(new Option("every "+key,""));
    seen.forEach(function(name){select.add(new Option(name,name));});
    select.addEventListener("change",function(){chosen[key]=select.value;apply();});
    label.append(key+" ",select);
    bar.append(label);
  });
  bar.append(count);
  apply();
}
addEventListener("beforeprint",function(){
  document.querySelectorAll("details").forEach(function(item){item.open=true;});});
})();
"""


def frame(head: str, sections: Mapping[str, tuple[str, str]]) -> str:
    """Return header, links and sections; all HTML.

    Args:
        head: What stands above the links.
        sections: Title -> (anchor, content); those without content are left out.
    """
    present = {title: part for title, part in sections.items() if part[1]}
    links = "".join(f'<a href="#{a}">{esc(t)}</a>' for t, (a, _) in present.items())
    nav = f'<nav aria-label="Sections">{links}</nav>' if links else ""
    content = "".join(section(anchor, title, html) for title, (anchor, html) in present.items())
    foot = "Written by embedworks. This file needs no network and holds all its data."
    return f"<header>{head}{nav}</header><main>{content}</main><footer>{foot}</footer>"


def page(title: str, body: str) -> str:
    """Return a whole HTML page; ``title`` is text, ``body`` is HTML.

    The content security policy allows the page's own script by its hash and nothing else: no
    request leaves the page, and a script that came in with the data would not run.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{esc(title)}</title><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{body}<script>{_SCRIPT}</script></body></html>\n"
    )
