"""The engine of synthesis: asks generators, checks answers, keeps them, counts everything."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import pydantic

from embedworks._core.files import sha256_of_text
from embedworks._core.progress import progress
from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_in_range
from embedworks.data._synthesis.ledger import Ledger
from embedworks.data._synthesis.report import Price, SynthesisReport
from embedworks.data._synthesis.text_checks import Problem
from embedworks.data.generators import Completion, Generator, Message, RequestRefusedError
from embedworks.data.synthesis_tasks import Answer, SynthesisRequest
from embedworks.errors import EndpointError, FormatError, InputError, UnknownNameError

__all__ = ["Answered", "Synthesizer"]

_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_REFUSALS_IN_A_ROW = 5
_QUOTED_CHARS = 4_000
_SEED_BITS = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that passed its checks.

    Attributes:
        answer: The answer, in the form of its request.
        generator: Name of the generator.
        model: The model, as the generator calls it.
        key: Key of the answer in the ledger.
    """

    answer: Any
    generator: str
    model: str
    key: str


@dataclass(frozen=True, slots=True)
class _Job:
    request: SynthesisRequest
    generator: str
    messages: list[Message]
    seed: int
    key: str


class Synthesizer:
    """Asks generators for texts; the steps of `embedworks.data.synthesis` work through one.

    Items are given to the generators in turn, so that each gets an equal share, in an order
    drawn from the seed. An answer that fails its checks goes back to the generator with the
    reason; after ``max_attempts`` the item is dropped and counted. Answers are kept in the
    ledger under a hash of step, prompt, model, seed and temperature, dropped items too: asking
    for the same thing again costs nothing, and an interrupted job goes on where it was. Items
    dropped earlier are asked again when ``max_attempts`` or ``max_tokens`` has been raised.

    Args:
        generators: Name -> generator, or one generator.
        ledger: File of kept answers; None keeps them in memory.
        seed: Seed of every random choice; also given to the generators.
        workers: Requests on the way at the same time.
        max_attempts: Answers asked for before an item is dropped, the first included.
        max_tokens: Most tokens of one answer.
        temperature: Randomness of the answers; judges use 0.
        personas: Descriptions of people. Each item is written in the voice of one of them, by
            generators that can (rules cannot).
        prices: Generator -> price, for the cost report.
        show_progress: Force the progress bars on or off; None shows them on a terminal.

    Raises:
        InputError: When there is no generator or a number is out of range.
        UnknownNameError: When a price is given for an unknown generator.

    Example:
        >>> from embedworks.data import RuleBasedGenerator, query_passages
        >>> with Synthesizer({"rules": RuleBasedGenerator()}) as synthesizer:
        ...     rows = query_passages(
        ...         ["A kettle is a vessel for boiling water. It has a lid, a handle and a spout."],
        ...         synthesizer, styles=["question"],
        ...     )
        >>> rows[0].anchor
        'What is a kettle?'
    """

    def __init__(
        self,
        generators: Generator | Mapping[str, Generator],
        *,
        ledger: str | Path | None = None,
        seed: int = 0,
        workers: int = 4,
        max_attempts: int = 3,
        max_tokens: int = 2_000,
        temperature: float = 0.8,
        personas: Sequence[str] = (),
        prices: Mapping[str, tuple[float, float]] | None = None,
        show_progress: bool | None = None,
    ) -> None:
        if not isinstance(generators, Mapping):
            generators = {generators.identity: generators}
        if not generators:
            raise InputError("there is no generator: give one, such as RuleBasedGenerator().")
        self.generators = dict(generators)
        self.seed = seed
        derive_seed(seed)
        self.workers = int(check_in_range(workers, name="workers", low=1, high=256))
        self.max_attempts = int(check_in_range(max_attempts, name="max_attempts", low=1))
        self.max_tokens = int(check_in_range(max_tokens, name="max_tokens", low=1))
        self.temperature = check_in_range(temperature, name="temperature", low=0.0)
        if any(not persona.strip() for persona in personas):
            raise InputError("a persona is empty: describe each in a few words.")
        self.personas = tuple(personas)
        self.show_progress = show_progress
        self.report = SynthesisReport()
        for name, price in (prices or {}).items():
            self._checked_names([name])
            self.report.prices[name] = Price(*price)
        self.ledger = Ledger(None if ledger is None else Path(ledger))
        self.report.repaired = self.ledger.repaired

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and release the ledger."""
        self.ledger.close()

    def ask(
        self, requests: Sequence[SynthesisRequest], *, generators: Sequence[str] | None = None
    ) -> list[Answered | None]:
        """Return the answer to every request, in their order; None where it was dropped.

        Args:
            requests: What to ask; equal requests are asked once.
            generators: Names of those to ask; None asks all.

        Raises:
            EndpointError: When an endpoint cannot be reached or refuses everything; answers
                that came before are kept.
        """
        if not requests:
            return []
        started = time.perf_counter()
        jobs = self._jobs(requests, self._checked_names(generators))
        distinct = {job.key: job for job in jobs}
        waiting = []
        for key, job in distinct.items():
            step = self.report.step(job.request.step)
            step.asked += 1
            record = self.ledger.get(key)
            if record is None or self._deserves_more(record):
                waiting.append(job)
            else:
                step.from_ledger += 1
                self._count(job, record, now=False)
        try:
            self._run(waiting)
        finally:
            self.report.step(jobs[0].request.step).seconds += time.perf_counter() - started
        return [self._answered(job) for job in jobs]

    def skip(self, step: str, reason: str, count: int = 1) -> None:
        """Count inputs that a step does not apply to."""
        if count:
            self.report.step(step).skipped[reason] += count

    def _checked_names(self, names: Sequence[str] | None) -> list[str]:
        for name in names or ():
            if name not in self.generators:
                raise UnknownNameError(
                    f"No generator {name!r}. {did_you_mean(name, list(self.generators))}"
                )
        return list(self.generators) if names is None else list(names)

    def _jobs(self, requests: Sequence[SynthesisRequest], names: list[str]) -> list[_Job]:
        if not names:
            raise InputError("the list of generators is empty: name at least one.")
        rng = generator(self.seed, "synthesis", requests[0].step)
        jobs, order = [], list[str]()
        for request in requests:
            if not order:  # every generator once, then in another order again
                order = [names[i] for i in rng.permutation(len(names))]
            name = order.pop()
            persona = None
            if self.personas:
                persona = self.personas[int(rng.integers(len(self.personas)))]
            messages = request.messages(persona)
            identity = self.generators[name].identity
            said = json.dumps([(m.role, m.content) for m in messages], ensure_ascii=False)
            seed = derive_seed(self.seed, "synthesis", said) & _SEED_BITS
            heat = str(self._temperature(request))
            key = sha256_of_text(request.step, said, identity, str(seed), heat)[:32]
            jobs.append(_Job(request, name, messages, seed, key))
        return jobs

    def _deserves_more(self, record: dict[str, Any]) -> bool:
        """Whether an item was dropped under tighter limits than today's."""
        if record["answer"] is not None or record["dropped"] == "declined":
            return False
        attempts, tokens = record["limits"]
        return self.max_attempts > attempts or self.max_tokens > tokens

    def _temperature(self, request: SynthesisRequest) -> float:
        return self.temperature if request.temperature is None else request.temperature

    def _run(self, jobs: list[_Job]) -> None:
        """Answer jobs with at most ``workers`` at a time; keep every answer that comes."""
        if not jobs:
            return
        refused = _Refusals()
        pending: dict[Future[dict[str, Any]], _Job] = {}
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="synthesis")
        label = jobs[0].request.step.capitalize()
        try:
            with progress(label, total=len(jobs), enabled=self.show_progress) as bar:
                queue = iter(jobs)
                while True:
                    self._fill(pool, queue, pending)
                    if not pending:
                        break
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._finish(pending.pop(future), future, refused)
                        bar.advance()
        except EndpointError as error:
            self._keep_rest(pending)
            raise EndpointError(self._stopped(error)) from error
        except BaseException:
            self._keep_rest(pending)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(
        self,
        pool: ThreadPoolExecutor,
        queue: Iterator[_Job],
        pending: dict[Future[dict[str, Any]], _Job],
    ) -> None:
        while len(pending) < self.workers:
            job = next(queue, None)
            if job is None:
                return
            pending[pool.submit(self._answer, job)] = job

    def _finish(self, job: _Job, future: Future[dict[str, Any]], refused: _Refusals) -> None:
        try:
            record = future.result()
        except RequestRefusedError as error:
            self.report.step(job.request.step).dropped["refused by the endpoint"] += 1
            refused.add(job.generator, error)
            return
        refused.clear(job.generator)
        self.ledger.add(job.key, record)
        self._count(job, record, now=True)

    def _keep_rest(self, pending: dict[Future[dict[str, Any]], _Job]) -> None:
        """Wait for requests that are on the way, without further tries; keep what they bring."""
        for asked in self.generators.values():
            cancel = getattr(asked, "cancel", None)
            if cancel is not None:
                cancel()
        for future, job in pending.items():
            if not future.cancel() and future.exception() is None:
                self.ledger.add(job.key, future.result())

    def _stopped(self, error: EndpointError) -> str:
        kept = len(self.ledger)
        if self.ledger.path is None:
            return f"{error} Synthesis stopped; {kept:,} answers are kept in memory."
        return (
            f"{error} Synthesis stopped; {kept:,} answers are kept in {self.ledger.path}. Run the "
            "same job with the same ledger (resume) to go on from there."
        )

    def _answer(self, job: _Job) -> dict[str, Any]:
        """Ask until an answer passes; return the record for the ledger."""
        spent: Counter[str] = Counter()
        started = time.perf_counter()
        messages, problem, model = list(job.messages), Problem("", ""), ""
        answer: dict[str, Any] | None = None
        schema = job.request.schema.model_json_schema()
        for attempt in range(self.max_attempts):
            completion = self.generators[job.generator].complete(
                messages,
                seed=(job.seed + attempt) & _SEED_BITS,
                max_tokens=self.max_tokens,
                temperature=self._temperature(job.request),
                response_schema=schema,
            )
            spent.update(
                calls=1,
                retries=completion.retries,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
            model = completion.model
            parsed = _parse(completion, job.request)
            if not isinstance(parsed, Problem):
                answer = parsed.model_dump(mode="json")
                break
            problem = parsed
            if problem.reason == "declined":
                break
            messages += [
                Message("assistant", completion.text[:_QUOTED_CHARS] or "(nothing)"),
                Message("user", f"This cannot be used: {problem.message} Answer again."),
            ]
        return {
            "step": job.request.step,
            "generator": job.generator,
            "model": model,
            "answer": answer,
            "dropped": None if answer else problem.reason,
            "detail": None if answer else problem.message[:500],
            "limits": [self.max_attempts, self.max_tokens],
            "calls": spent["calls"],
            "retries": spent["retries"],
            "prompt_tokens": spent["prompt_tokens"],
            "completion_tokens": spent["completion_tokens"],
            "seconds": round(time.perf_counter() - started, 4),
        }

    def _count(self, job: _Job, record: dict[str, Any], *, now: bool) -> None:
        step = self.report.step(job.request.step)
        if record["answer"] is None:
            step.dropped[record["dropped"]] += 1
        else:
            step.accepted += 1
        self.report.generator(job.generator).add(record, now=now)

    def _answered(self, job: _Job) -> Answered | None:
        record = self.ledger.get(job.key)
        if record is None or record["answer"] is None:
            return None
        try:
            answer = job.request.schema.model_validate(record["answer"])
        except pydantic.ValidationError as error:
            raise FormatError(
                f"{self.ledger.path}: the answer {job.key} does not have the form it should "
                f"({error.errors()[0]['msg']}). Remove its line to have it generated again."
            ) from error
        return Answered(answer, job.generator, record["model"], job.key)


class _Refusals:
    """Counts refusals in a row: a service that refuses everything is not asked for long."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = Lock()

    def clear(self, name: str) -> None:
        with self._lock:
            self._counts[name] = 0

    def add(self, name: str, error: RequestRefusedError) -> None:
        with self._lock:
            self._counts[name] += 1
            count = self._counts[name]
        if count >= _REFUSALS_IN_A_ROW:
            raise EndpointError(
                f"{count} requests in a row were refused, the last with: {error} If it names a "
                "field of the request, set json_mode to 'object' or 'off', or remove the field "
                "with extra_body."
            ) from error


def _parse(completion: Completion, request: SynthesisRequest) -> Answer | Problem:
    """Read an answer: JSON, perhaps in a fence or among words, of the right form and content."""
    text = _THINKING.sub("", completion.text).strip()
    if not text:
        return Problem("no answer", "the answer is empty.")
    value = _json_object(text)
    if value is None:
        if completion.truncated:
            return Problem("cut off", "the answer was cut off: be brief.")
        return Problem("malformed JSON", "the answer is not one JSON object.")
    if set(value) == {"declined"}:
        return Problem("declined", str(value["declined"]))
    try:
        answer = request.schema.model_validate(value)
    except pydantic.ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the object'}: {e['msg']}" for e in error.errors()
        ]
        return Problem("wrong form", "; ".join(problems[:5]) + ".")
    return request.check(answer) or answer


def _json_object(text: str) -> dict[str, Any] | None:
    candidates = [text, *_FENCED.findall(text), text[max(0, text.find("{")) :]]
    for candidate in candidates:
        try:
            value = json.JSONDecoder().raw_decode(candidate.lstrip())[0]
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None
