"""Things people can like, and names of people, for generated texts."""

from __future__ import annotations

__all__ = ["FIRST_NAMES", "HEADS", "LAST_NAMES", "SINGLES", "STYLES"]


def _listed(words: str) -> list[str]:
    return words.split()


#: Plural or mass nouns of one word.
SINGLES = _listed(
    """
    apples apricots artichokes asparagus aubergines avocados bagels baguettes bananas barley
    basil beetroots biscuits blackberries blueberries bread broccoli brownies buckwheat burritos
    butter buttermilk cabbages caramel cardamom carrots cashews cauliflowers caviar celery
    cheesecake cherries chestnuts chickpeas chilies chives chocolate chutney cider cinnamon
    clementines cloves cocoa coconuts coffee coriander couscous crackers cranberries crepes
    croissants croutons cucumbers cumin cupcakes currants custard dates dill donuts dumplings
    elderberries endives falafel fennel figs focaccia fondue garlic gelato gherkins ginger
    gnocchi goulash granola grapefruits grapes gravy guavas gumbo halva hazelnuts honey
    horseradish hummus jam jelly kale kebabs ketchup kimchi kiwis kohlrabi lasagna leeks
    lemonade lemons lentils lettuce licorice limes loquats lychees macaroons mandarins mangoes
    marmalade marshmallows marzipan mayonnaise meatballs melons meringue millet mint molasses
    mozzarella muesli muffins mulberries mushrooms mustard nachos nectarines noodles nougat
    nutmeg oatmeal okra olives omelettes onions oranges oregano paella pancakes papayas paprika
    parmesan parsley parsnips passionfruit pasta pastrami peaches peanuts pears peas pecans
    peppermint peppers persimmons pesto pickles pineapples pistachios pizza plantains plums
    polenta pomegranates popcorn popsicles porridge potatoes praline pretzels pudding pumpkins
    quiche quinces quinoa radishes raisins ramen raspberries ravioli rhubarb rice risotto
    rosemary rutabagas saffron sage salami salsa sandwiches sauerkraut sausages scones sesame
    shallots sherbet sorbet soup soybeans spaghetti spinach sprouts strawberries strudel sushi
    tacos tamarind tangerines tapioca tarragon thyme tiramisu toast toffee tofu tomatoes
    tortillas truffles turmeric turnips vanilla vinegar waffles walnuts wasabi watercress
    watermelons yams yogurt zucchini aardvarks albatrosses alligators alpacas anacondas
    anchovies anteaters antelopes ants armadillos axolotls baboons badgers barnacles barracudas
    bats beavers beetles bison boas bobcats budgerigars buffaloes bumblebees butterflies
    buzzards camels canaries capybaras caribou caterpillars catfish centipedes chameleons
    cheetahs chickadees chimpanzees chinchillas chipmunks cicadas clams cobras cockatoos condors
    coots cormorants cougars coyotes crabs crayfish crocodiles crows cuckoos curlews cuttlefish
    dachshunds dalmatians deer dingoes dolphins donkeys dormice dragonflies ducks eagles eels
    egrets elephants emus falcons ferrets finches fireflies flamingos foxes frogs gazelles
    geckos gerbils gibbons giraffes gnus goats goldfinches goldfish geese gorillas grasshoppers
    greyhounds grouse guppies haddock halibut hamsters hares hawks hedgehogs herons herring
    hippos hornets horses hummingbirds hyenas ibexes iguanas impalas jackals jackdaws jaguars
    jellyfish kangaroos kestrels kingfishers kittens koalas krill ladybirds lapwings larks
    lemmings lemurs leopards limpets lions lizards llamas lobsters locusts loons lynxes macaws
    mackerel magpies mallards manatees mantises marmosets marmots martins meerkats minks minnows
    mockingbirds moles mongooses monkeys moose mosquitoes moths mules muskrats narwhals newts
    nightingales ocelots octopuses opossums orangutans orcas ospreys ostriches otters owls
    oysters pandas pangolins panthers parakeets parrots partridges peacocks pelicans penguins
    pheasants pigeons piranhas platypuses ponies poodles porcupines porpoises possums prawns
    puffins pumas puppies pythons quails rabbits raccoons rats rattlesnakes ravens reindeer
    rhinos roadrunners robins roosters salamanders salmon sandpipers sardines scallops scorpions
    seagulls seahorses seals shrews shrimp skunks sloths slugs snails sparrows spiders squid
    squirrels starfish starlings stingrays stoats storks sturgeons swallows swans swifts
    tadpoles tapirs tarantulas termites terrapins thrushes tigers toads tortoises toucans trout
    tuna turkeys turtles vipers voles vultures wallabies walruses warblers wasps weasels whales
    wolverines wolves wombats woodpeckers wrens yaks zebras acacias alders anemones aspens
    asters azaleas bamboo baobabs begonias bluebells bonsai bougainvillea bracken brambles
    bromeliads buttercups cacti camellias carnations cedars chrysanthemums clematis clover
    columbines cornflowers cowslips crocuses cyclamens cypresses daffodils dahlias daisies
    dandelions delphiniums edelweiss elms eucalyptus ferns foxgloves freesias fuchsias gardenias
    geraniums gladioli gorse hawthorns heather hellebores hemlock hibiscus hollyhocks
    honeysuckle hyacinths hydrangeas irises ivy jasmine junipers kelp larches laurels lavender
    lichen lilacs lobelias lotuses lupins magnolias mangroves maples marigolds mimosas mistletoe
    moss myrtles narcissi nettles oaks oleanders orchids pansies peonies petunias phlox pines
    poinsettias poplars poppies primroses reeds rhododendrons rowans rushes seaweed sequoias
    snapdragons snowdrops spruces sunflowers sycamores thistles toadstools tulips verbena violas
    willows wisteria yarrow yews yuccas zinnias abseiling acrobatics aerobics angling archery
    badminton ballet baseball basketball billiards birdwatching bobsleigh bouldering bowling
    boxing camping canoeing capoeira cartwheels caving charades checkers cheerleading chess
    climbing cricket croquet crosswords curling cycling darts diving dodgeball dominoes
    equestrianism falconry fencing fishing foraging freediving frisbee geocaching gliding golf
    gymnastics handball hiking hockey hopscotch hurdling jogging jousting judo juggling karate
    kayaking kickboxing kitesurfing lacrosse marathons mountaineering netball orienteering
    origami paintball parachuting paragliding parkour pilates pinball poker polo puzzles
    quidditch rafting rappelling riddles rowing rugby sailing skateboarding skiing skipping
    sledding sleepwalking snooker snorkeling snowboarding soccer softball sprinting squash
    stargazing sudoku surfing swimming tennis trampolining trekking triathlons tumbling
    volleyball wakeboarding weightlifting windsurfing wrestling yachting yoga zumba accordions
    bagpipes balalaikas bandoneons banjos bassoons bongos bugles castanets cellos chimes
    clarinets clavichords concertinas cornets cymbals didgeridoos dulcimers fiddles flutes
    glockenspiels gongs guitars harmonicas harps harpsichords kazoos keyboards lutes lyres
    mandolins maracas marimbas oboes ocarinas organs piccolos recorders saxophones sitars
    spinets synthesizers tambourines theremins timpani triangles trombones trumpets tubas
    ukuleles vibraphones violins xylophones zithers ballads bluegrass blues bossanova cantatas
    carols chants concertos dubstep fandangos flamenco folklore foxtrots funk fugues gospel
    grunge jazz lullabies madrigals mambo mazurkas minuets motown nocturnes operas operettas
    overtures polkas preludes ragtime rap reggae requiems rumba salons samba serenades sonatas
    soul symphonies tango techno waltzes yodeling acrylics calligraphy cameos caricatures
    carpentry cartoons ceramics charcoal collages crocheting decoupage embroidery enamelling
    engravings etchings filigree frescoes glassblowing graffiti illustrations inlays jewelry
    knitting lacquer leatherwork lithographs macrame marquetry mosaics murals needlepoint
    pastels patchwork photography pottery printmaking quilting scrapbooking sculptures
    silhouettes sketching stencils tapestries tattoos upholstery watercolors weaving whittling
    woodcuts almanacs anagrams anthologies atlases biographies chronicles comics diaries
    dictionaries dystopias elegies encyclopedias epics essays fables haiku limericks manifestos
    memoirs metaphors mysteries mythology novels odes palindromes parables parodies poetry
    proverbs puns satire screenplays sonnets thesauruses thrillers tragedies trilogies
    aeronautics algebra algorithms anatomy anthropology archaeology arithmetic astronomy
    astrophysics biology botany calculus cartography chemistry climatology criminology
    cryptography demography economics electronics entomology etymology fossils fractals
    genealogy genetics geology geometry glaciology grammar heraldry history hydraulics
    immunology journalism linguistics logic magnetism mathematics mechanics metallurgy
    meteorology microbiology mineralogy neurology numerology nanotechnology oceanography optics
    ornithology paleontology philosophy phonetics physics probability psychology robotics
    semantics sociology statistics theology thermodynamics topology toxicology trigonometry
    typography virology volcanology zoology amethysts agates amber beryl brass bronze cobalt
    copper corals diamonds emeralds garnets gold granite graphite jade jasper limestone
    malachite marble moonstones nickel obsidian onyx opals pearls pewter platinum porcelain
    pumice quartz rubies sandstone sapphires silver slate sulfur terracotta tin titanium topaz
    tourmaline turquoise zinc alpines archipelagos atolls auroras avalanches blizzards breezes
    brooks canyons cascades caverns cliffs clouds comets coves craters creeks crevasses deltas
    deserts downpours drizzle dunes earthquakes eclipses estuaries fjords fog foothills forests
    frost galaxies geysers glaciers glades gorges gullies hail hailstones harbors headlands
    hurricanes icebergs icicles islands isthmuses jungles lagoons lakes lava lightning marshes
    meadows meteors mist monsoons moonlight nebulae oases oceans orchards peninsulas planets
    plateaus ponds prairies quicksand rainbows rainforests rapids ravines reefs rivers savannas
    sleet snowflakes springs stalactites stalagmites steppes storms sunrises sunsets supernovas
    swamps tides tornadoes tsunamis tundra twilight typhoons valleys volcanoes waterfalls
    whirlpools woodlands abbeys airports amphitheaters aquariums aqueducts arcades arenas
    bakeries balconies barns basilicas bazaars belfries bookshops boulevards breweries bridges
    bungalows cabins cafeterias campfires canals carousels castles cathedrals chapels chateaus
    cinemas citadels cloisters cottages courtyards dairies distilleries docks dungeons embassies
    escalators factories fairgrounds farms ferries fireplaces fortresses fountains galleries
    gardens gazebos greenhouses hamlets hostels hotels igloos inns kiosks laboratories
    labyrinths libraries lighthouses manors markets mausoleums mazes mills minarets moats
    monasteries mosques museums nunneries obelisks observatories pagodas palaces parks pavilions
    piers planetariums playgrounds pyramids quarries ranches restaurants ruins saunas
    skyscrapers spires stables stadiums subways synagogues taverns temples tents theaters towers
    treehouses tunnels turrets universities viaducts villages vineyards wharves windmills yurts
    ziggurats zoos airplanes airships ambulances balloons barges bicycles bulldozers buses
    caravans carriages catamarans chariots convertibles dinghies dirigibles drones excavators
    forklifts freighters gondolas gyroscopes hatchbacks helicopters hovercraft jeeps limousines
    locomotives lorries monorails mopeds motorcycles pickups rickshaws rockets rollerblades
    satellites scooters seaplanes sidecars sleighs snowmobiles spacecraft speedboats steamboats
    submarines tandems taxis tractors trains trams tricycles trolleys tugboats unicycles vans
    wagons yawls zeppelins aprons bandanas belts berets bikinis blazers blouses bonnets boots
    bowties bracelets brooches buttons capes cardigans cloaks corsets cravats cufflinks denim
    dungarees earmuffs earrings fedoras flannel galoshes gloves goggles gowns hats helmets
    hoodies jackets kilts kimonos lace leggings linen lipstick loafers mascara mittens moccasins
    monocles muslin necklaces nylon overalls pajamas parkas petticoats pocketwatches ponchos
    pullovers ribbons sandals saris sarongs scarves sequins shawls shorts silk skirts slippers
    sneakers socks sombreros stockings suede sunglasses suspenders sweaters tartan tiaras ties
    togas trousers tunics turbans tuxedos tweed umbrellas velvet vests waistcoats wigs wool
    zippers abacuses alarms anchors anvils armchairs bandages barometers barrels baskets
    bathtubs beads bells benches binoculars blankets blenders bookmarks bottles brooms bubbles
    buckets calculators calendars cameras candles cans carpets chandeliers chests chisels clocks
    coins combs compasses confetti corkscrews crayons crystals curtains cushions desks dice
    dolls drawers drums dustpans envelopes erasers fans figurines flags flashlights folders
    forks fridges glue goblets hammers hammocks hinges hourglasses incense inkwells jars jigsaws
    jugs kaleidoscopes kettles keys kites ladders ladles lamps lanterns lasers lenses levers
    locks looms maps masks mattresses medals megaphones metronomes microphones microscopes
    mirrors mops mugs nails napkins needles notebooks ovens paintbrushes paperclips parchment
    pencils pendulums periscopes pianos pillows pincushions pitchers pliers plungers postcards
    pulleys puppets quills radios rakes razors refrigerators ropes rugs rulers sandpaper saucers
    scales scissors screwdrivers shovels sieves soap sofas souvenirs spatulas spectacles sponges
    spoons springboards stamps staplers stethoscopes stickers stools stopwatches suitcases
    sundials swings tables tablets teapots telephones telescopes thermometers thimbles toasters
    toolboxes torches towels toys trays tripods trophies tweezers typewriters vases wallpaper
    wheelbarrows whistles wreaths yoyos airshows anniversaries applause auctions ballrooms
    banquets barbecues birthdays breakfasts brunches carnivals celebrations circuses concerts
    coronations daydreams debates elections exhibitions expeditions festivals fireworks
    graduations harvests holidays honeymoons jokes jubilees magic marionettes masquerades
    matinees naps nostalgia parades picnics pilgrimages pranks quizzes races raffles reunions
    rodeos safaris seances secrets serendipity silence sleepovers solitude storytelling
    surprises talismans tournaments vacations ventriloquism volunteering weddings whispers
    """
)

#: Manners, for things of two words.
STYLES = _listed(
    """
    borrowed cheerful crooked dusty elegant enormous faded foreign forgotten gentle giant gilded
    glossy handmade hidden homemade imported invisible late lively local lucky miniature modern
    narrow nightly noisy quaint ornate painted peculiar polished portable quiet rare rustic
    scented shiny simple slow solemn speckled spotless striped sturdy summer tall tidy tiny
    unfinished unusual vintage wandering winter wobbly
    """
)

#: What the manners go with; none of them is among `SINGLES`.
HEADS = _listed(
    """
    bookshelves chairs cities dances doorways dresses faces footpaths furniture gadgets gates
    handwriting instruments kitchens laughter machines melodies neighbors passages poems rituals
    rooms shadows shoes songs stairs stories streets voices walls windows
    """
)

FIRST_NAMES = _listed(
    """
    Abel Adela Agnes Alaric Alba Aldo Alma Alvin Amos Anders Anika Anouk Ansel Arlo Arne Astrid
    Aurelio Avery Bahar Bashir Beatrix Benno Berta Bianca Blanche Boris Brenda Bruno Callum
    Carla Casper Cecil Celia Chiara Claudia Clement Colette Conrad Cora Cosima Cyril Dagmar
    Dalia Damon Daphne Darius Delia Desmond Dmitri Donna Doris Edgar Edith Eileen Elias Elke
    Ellis Elsa Emeka Emil Enid Enzo Esme Esther Ethel Etta Eugene Ewan Fabian Farida Fatima
    Felix Ferdinand Fergus Fiona Flavio Frances Freya Gareth Gemma Gerda Gideon Gilda Giles
    Greta Gunnar Gustav Hamza Hanna Harriet Hector Hedda Heidi Helga Henrik Hilda Hiro Horace
    Hugo Ida Igor Ilse Imelda Imogen Ines Ingrid Irma Isaac Ismail Ivan Jamila Janek Jaro Jerome
    Joachim Johanna Jonas Josefa Judith Jules Kaito Karim Karin Kasimir Katrin Keiko Kenji
    Kirsten Klara Lars Leila Lena Leopold Lionel Livia Lorenz Lotte Lucian Ludwig Luisa Mabel
    Magda Malik Manuel Marcel Margot Marius Marta Matilda Maude Melvin Mercy Milan Mildred Minna
    Mirela Moritz Muriel Nadia Naomi Nasser Nestor Niamh Nicola Nils Nora Octavia Odette Olaf
    Omar Orla Oskar Otto Pascal Paula Percy Petra Phoebe Pilar Quentin Rafael Ragna Ramona
    Rasmus Raul Renata Rhea Roland Rosalind Rufus Sabine Salma Samir Saskia Selma Sergio Sigrid
    Silas Simone Sofia Soren Stella Sven Tabitha Tamsin Tariq Thea Tilda Tobias Ulrich Ursula
    Vera Vikram Vincent Wanda Wilfred Winifred Xenia Yara Yusuf Yvette Zelda Zora
    """
)

LAST_NAMES = _listed(
    """
    Abernathy Achterberg Ainsworth Albescu Amundsen Andrade Arkwright Ashdown Axelrod Babcock
    Bancroft Barlowe Beaumont Bergstrom Bexley Birkett Blackwood Bonetti Bosworth Brandvold
    Brewster Bristow Brockhurst Burgess Cadwell Calloway Carmichael Castellan Chadwick Chaudhry
    Clayborne Colborne Corrigan Crawshaw Cunningham Dalgaard Danforth Davenport Delacroix
    Dempsey Denholm Devereux Dobrev Donnelly Drummond Dunleavy Eastwood Eckhart Edelman Ekström
    Ellingham Elsworth Engel Eriksen Everhart Fairbanks Farquhar Faulkner Fenwick Ferrante
    Fitzroy Flanagan Forsyth Fraser Friedland Gallagher Garrick Gauthier Gibson Gilmour Goodwin
    Gorham Grabowski Grayson Greenhalgh Gustafson Haddad Hallström Hargreaves Hartmann Hathaway
    Havel Hawley Heffernan Hendricks Hightower Hollander Holmgren Hornby Huxley Ibarra Ingleby
    Iqbal Isaksen Iversen Jablonski Jankowski Jefferies Jorgensen Kapoor Kaminski Karlsen
    Kavanagh Keating Kendrick Kerrigan Kilpatrick Kingsley Kirkwood Kowalski Kristoff Lachance
    Lambert Langdon Larsson Lattimer Leclair Lennox Lindqvist Lockhart Lombardi Lovelace
    Lundgren Macready Maddox Malinowski Mansfield Marchetti Marlowe Mayfield McBride McCulloch
    Mehta Merriweather Middleton Moncrieff Montague Morello Mulligan Nakamura Navarro Nesbitt
    Newcombe Nordahl Norwood Novak Oakley Obrecht Okafor Oldfield Olmstead Ormond Osborne
    Ottoway Paddington Palmgren Pankhurst Papadakis Pemberton Penrose Petrosyan Pickering
    Pinkerton Plunkett Prendergast Prescott Quigley Quillan Radcliffe Rafferty Ramsbottom
    Rasmussen Redgrave Renshaw Rhodes Richter Rochester Rosenthal Rothwell Rutherford Saavedra
    Sandoval Satterfield Schofield Sedgwick Selwyn Shackleton Sheridan Sinclair Skarsgard
    Soderberg Somerset Spalding Stanhope Steinberg Stirling Strickland Sutherland Tanaka
    Templeton Thackeray Thornbury Tillman Torvald Trelawney Tremblay Underwood Upchurch Valdez
    Vandermeer Vasquez Vickers Volkov Wadsworth Wakefield Walcott Warburton Weatherby Wentworth
    Westbrook Whitaker Wilberforce Winslow Wolstenholme Wyndham Yamamoto Yardley Zielinski
    Zimmerman
    """
)
