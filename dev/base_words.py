"""Names and words of the small synthetic base (see gen_base_data.py); base_forms.py has its sentences.

Nothing here may be a value of the Cairo timeline: tests/test_base_data.py compares the two word by word.
"""


def split(text, sep="|"):
    """The parts of a list written in one string."""
    return tuple(part.strip() for part in text.split(sep) if part.strip())


FIRST_NAMES = split(
    "Ada|Bruno|Carla|Dmitri|Elena|Farid|Greta|Hugo|Ines|Jonas|Katya|Lars|Mirela|Nadia|Oskar|Petra|Quentin|Rosa|Stefan|Tamar|Ulf|Vera|"
    "Wendy|Ximena|Yusuf|Zora|Anton|Bianca|Cedric|Dalia|Emil|Fiona|Gustav|Hana|Igor|Jana|Kenji|Lucia|Marek|Noor|Olga|Pavel|Ramon|Sonia|"
    "Tobias|Ursula|Viktor|Wanda|Yara|Zeno|Alice|Robert|Marta|Jakob|Susan|Peter|Laura|George|Helen|Frank|Ruth|Walter|Irene|Kofi|Amara|Chidi|"
    "Mei|Jun|Priya|Arjun|Sven|Astrid|Paolo|Giulia|Diego|Carmen|Thabo|Lindiwe")

COMPANIONS = split(
    "Basil|Celeste|Duncan|Edith|Felix|Gwen|Horace|Imogen|Jasper|Klara|Leopold|Mabel|Norbert|Odette|Percy|Rupert|Sabine|Theo|Ulrike|Vincent|"
    "Winifred|Xaver|Yolanda|Zelda|Ambrose|Beatrix|Casper|Daphne|Ernst|Flora|Gideon|Hedda|Ivo|Jolene|Konrad|Lotte|Magnus|Nell|Otto|Polly|"
    "the baker|the twins|the old pilot|a cousin|the new neighbour|the choir|nobody|the night guard|two students|the vet|an aunt|the surveyor")

SURNAMES = split(
    "Tosk|Varga|Lindqvist|Okoro|Bauer|Moreau|Castellan|Novak|Haddock|Petrov|Yamada|Silva|Berg|Kowal|Ferrand|Duarte|Ilves|Marsh|Quill|Rask|"
    "Santoro|Thorne|Ueda|Vance|Whitlock|Zeller|Abbott|Brandt|Corvin|Dunmore|Eklund|Falk|Gruber|Holt|Ivers|Jansen|Keller|Lorne|Mbeki|Nyberg")

SUBJECTS = split(
    "the patient|the robot|the captain|the traveller|she|he|I|I|I|the old lighthouse keeper|the cat|the probe|the brewery|"
    "the student|the tenant|the rover|the nurse|the courier|the pilot|the dog|the widow|the inspector|the gardener|the actor|the monk|the guest in "
    "room 9|player one|player two|the blue drone|unit 7|unit 12|agent K|agent R|the younger twin|the elder twin|the barge|the tanker|the gallery|"
    "the kiosk|the parrot|the horse|the boy next door|our neighbour|my brother|my aunt|my flatmate|the customer|the client|the suspect|the witness|"
    "the speaker|the hero|the stranger|the painter|the farmer|the queen|the general|the hermit|the colony|the expedition|the team|the band|the train|"
    "the person|the subject|the owner|the assistant|the visitor|the resident|the writer|the child|the spy|the prisoner|the professor")

# pools of real values; the generator mixes them with invented words, names, codes and numbers
POOLS = {
    "place": split(
        "Oslo|Lima|Kyoto|Porto|Quebec|Havana|Tallinn|Nairobi|Bergen|Cusco|Ghent|Hobart|Leeds|Macau|Nantes|Osaka|Perth|Riga|Seville|Turin|Utrecht|"
        "Vienna|Windhoek|Zagreb|San Juan|New Orleans|Buenos Aires|Kuala Lumpur|Cape Town|Santa Fe|Addis Ababa|Rio de Janeiro|Stoke-on-Trent|"
        "Aix-en-Provence|Saint-Malo|the harbour|the old mill|the library|the station|the north tower|the market hall|the bakery|the forest|the beach|"
        "the valley|the monastery|the airport|the shipyard|the village|the museum|the school|the quarry|the lighthouse|the island|the desert camp"),
    "room": split(
        "the scullery|the attic|the cellar|the study|the hall|the pantry|the west wing|the workshop|the laundry|the ballroom|the engine room|the lab|"
        "the vault|the washroom|the nursery|the balcony|the archive|the greenhouse|the garage|the lobby|cabin C|ward B|the loading bay|the server room|the bridal suite"),
    "feeling": split(
        "weary|jolly|gloomy|merry|sad|angry|afraid|bored|happy|sleepy|jealous|bitter|brave|shy|serene|furious|glad|worried|amused|puzzled|moody|"
        "cross|eager|numb|tense|dizzy|upbeat|downcast|homesick|guilty|grateful|shocked|confident|annoyed|ashamed|playful|wistful|stubborn|frantic|"
        "mellow|sulky|smug|gleeful|desperate|bewildered|at ease|full of hope|on edge|out of sorts|over the moon|rather low|quite pleased|fed up|"
        "in high spirits|rather irked|quite irate|somewhat edgy|really upset|so uptight|as if exhilarated|half-way elated|under urgent strain|sick with worry|lost in thought|ready for anything"),
    "drink": split(
        "cider|cocoa|milk|buttermilk|ginger ale|root beer|red wine|rum|kefir|broth|tonic|soda|lager|mead|perry|horchata|kombucha|mineral water|"
        "apple cider|oat milk|plum wine|warm milk|rice wine|birch sap|rye beer|almond milk|iced cocoa|egg nog|cream soda|barley water|tomato broth|"
        "gin|whisky|vermouth|sparkling water|cherry brandy|pear cider|hot chocolate|dandelion brew|elderflower cordial|salted lassi|malt shake"),
    "food": split(
        "soup|bread|noodles|lentils|dumplings|pancakes|cheese|rice|porridge|salad|stew|curry|omelette|pie|ravioli|fried fish|bean soup|apple cake|"
        "roast lamb|potato bread|plum tart|rye toast|grilled corn|leek pie|rice pudding|goat cheese|pickled herring|sour cabbage|baked beans|"
        "spinach pie|smoked eel|barley soup|egg noodles|walnut cake|fish and chips|bread and butter|macaroni|gnocchi|tofu|chestnuts"),
    "fruit": split("apples|pears|plums|cherries|figs|grapes|melons|peaches|apricots|quinces|oranges|bananas|kiwis|blackberries|dates|limes"),
    "colour": split(
        "red|blue|green|yellow|orange|purple|grey|white|brown|pink|teal|crimson|ochre|indigo|silver|turquoise|beige|scarlet|olive|violet|navy|"
        "dark green|pale blue|off-white|brick red|sea green|lilac|amber|ivory|rust"),
    "clothes": split(
        "a red scarf|a straw hat|a wool coat|rubber boots|a silk shirt|a leather jacket|an apron|a raincoat|old sandals|a velvet cape|a green tie|"
        "dungarees|a linen suit|a fur cap|striped socks|a denim skirt|white gloves|a hooded cloak|a kimono|a yellow vest|a torn jumper|a bow tie"),
    "weather": split(
        "rain|snow|fog|hail|sunshine|drizzle|a storm|frost|sleet|thunder|strong wind|light snow|thick fog|clear skies|heavy rain|a heat wave|"
        "low clouds|a dust storm|mild wind|black ice|a gale|haze"),
    "activity": split(
        "reading|fishing|painting|cooking|sewing|rowing|gardening|baking|writing letters|mending nets|counting birds|chopping wood|playing chess|"
        "feeding hens|cleaning windows|learning to dance|watching ships|fixing a bicycle|sorting stamps|climbing|sleeping|digging|packing boxes|"
        "drawing maps|tuning a piano|weaving|picking mushrooms|polishing shoes|studying law|repairing clocks|swimming|ironing"),
    "person": COMPANIONS,
    "tool": split(
        "a hammer|a saw|a wrench|a torch|a rope|a compass|a ladder|a drill|a needle|a shovel|a lens|a pair of pliers|a chisel|a broom|a crowbar|"
        "a soldering iron|a tape measure|an axe|a magnet|a stethoscope|a sextant|a bucket|an old radio|a tin whistle|a glass jar|a walking stick"),
    "book": split(
        "The Salt Road|Nine Winters|A Cold Lamp|The Glass Orchard|Letters to Nobody|The Seventh Door|Moss and Iron|The Clockmaker|Under Two Moons|"
        "The Paper Sea|Grey Feathers|A History of Knots|The Last Ferry|Songs of Tin|The Blind Cartographer|Winter Wheat|The Third Bell|"
        "Rivers of Ash|The Quiet Engine|On Bees|The Long Field|Seven Small Lies"),
    "music": split(
        "jazz|folk songs|opera|hip hop|waltzes|blues|techno|organ music|tango|lullabies|marches|swing|punk|reggae|string quartets|brass bands|"
        "sea shanties|hymns|drum solos|fado|bluegrass|chamber music|disco|ambient music"),
    "sport": split(
        "tennis|judo|rowing|fencing|hockey|cricket|archery|rugby|squash|skiing|surfing|golf|karate|polo|curling|handball|water polo|table tennis|"
        "figure skating|long jump|darts|wrestling|croquet|volleyball"),
    "animal": split(
        "a goat|a parrot|a hedgehog|a donkey|a ferret|a tortoise|a raven|a lamb|a spaniel|a pony|an owl|a grey cat|a lizard|a goose|two rabbits|"
        "a hamster|a fox cub|a snail|a pigeon|a llama|an otter|a tame crow|three hens|a white mouse|a beagle"),
    "plant": split(
        "basil|thyme|ivy|moss|fern|roses|tulips|lavender|sage|clover|barley|oak|willow|pine|cactus|bamboo|holly|jasmine|orchids|sunflowers|nettles|"
        "lilies|maple|birch|dill|parsley|heather"),
    "vehicle": split(
        "a bicycle|a tram|a red van|the night train|a canoe|a tractor|a taxi|a motorbike|the ferry|a camel|a hot-air balloon|a sledge|a scooter|"
        "a lorry|a horse cart|the metro|a glider|a steamboat|a minibus|a jeep|a rowing boat|the express"),
    "instrument": split(
        "cello|flute|harp|banjo|oboe|tuba|violin|piano|lute|zither|trumpet|accordion|bassoon|sitar|clarinet|double bass|French horn|bagpipes|"
        "mandolin|harmonica|kettledrum|viola|ukulele|recorder|marimba"),
    "language": split(
        "Welsh|Finnish|Swahili|Basque|Tamil|Greek|Danish|Latin|Hindi|Korean|Zulu|Czech|Maori|Polish|Icelandic|Catalan|Persian|Estonian|Yoruba|"
        "Breton|Quechua|Georgian|Old Norse|Hungarian|Tagalog"),
    "job": split(
        "baker|plumber|judge|beekeeper|surgeon|tailor|pilot|glazier|cook|librarian|miner|florist|sculptor|locksmith|fisher|carpenter|dentist|"
        "translator|bus driver|stone mason|tax clerk|opera singer|bell ringer|watchmaker|night porter|goat herder|cheese maker|park ranger"),
    "plan": split(
        "to sell the boat|to learn sailing|to visit an uncle|to open a shop|to paint the fence|to leave at dawn|to buy a farm|to write a play|"
        "to mend the roof|to study birds|to cross the lake|to sleep until noon|to plant trees|to call the doctor|to find the key|to bake bread|"
        "to move abroad|to build a raft|to wait for spring|to hide the map|to repair the pump|to sing in public"),
    "worry": split(
        "the leaking roof|a lost letter|the debt|the exam|a sore tooth|the late train|the broken lock|the rising river|the missing key|a bad harvest|"
        "the noisy pump|the tax bill|a strange sound|the court case|the cracked dam|an unpaid bill|the sick calf|the rusty bridge|rats in the cellar"),
    "dream": split(
        "a flying horse|a house of glass|an endless stair|a talking fish|a red moon|a lost brother|a silent crowd|a burning ship|a field of snow|"
        "a golden key|a speaking tree|an empty theatre|a paper bird|a wolf at the door|a sunken town|two suns|a giant clock|a white bear"),
    "gift": split(
        "a silver spoon|a box of dates|a music box|a woollen blanket|a kite|a pocket knife|a wax candle|a jar of honey|a chess set|a marble egg|"
        "a new saddle|a brass bell|a postcard|a pearl button|a toy train|a fountain pen|a clay pot|a lucky coin"),
    "material": split(
        "oak|brass|tin|copper|slate|clay|linen|wool|glass|steel|marble|granite|leather|bamboo|paper|rubber|ivory|cork|wax|bronze|flint|amber|"
        "cotton|pine|iron|sandstone|velvet"),
    "shape": split("a circle|a square|a star|a spiral|a cross|an arrow|a triangle|a wave|a crescent|an oval|a cube|a ring|a zigzag|a hexagon"),
    "status": split(
        "idle|running|stopped|charging|offline|ready|locked|open|closed|blocked|on hold|overdue|waiting|in repair|half full|empty|armed|paused|"
        "failing|stable|degraded|standby|overheated|under review|cleared|delayed|on time"),
    "illness": split(
        "a cough|a fever|a headache|back pain|a rash|a sprained ankle|hay fever|a toothache|a sore throat|flu|a burnt hand|vertigo|hiccups|"
        "a stiff neck|a broken rib|migraine|a nosebleed|cramps"),
    "topic": split(
        "volcanoes|tax law|bee keeping|old maps|comets|knots|chess openings|bridges|dinosaurs|cheese|tides|spiders|sailing|coins|clocks|ghosts|"
        "poetry|the moon|railways|mushrooms|pirates|ancient Rome|glaciers|algebra|soap making|whales|opera|lace"),
    "game": split(
        "chess|draughts|dominoes|poker|bridge|backgammon|marbles|hide and seek|solitaire|go|mahjong|charades|hopscotch|snap|rummy|tag|ludo|bingo"),
    "gem": split("ruby|opal|jade|garnet|topaz|pearl|onyx|sapphire|emerald|quartz|agate|diamond|amethyst|turquoise|beryl|moonstone"),
    "metal": split("gold|zinc|lead|nickel|cobalt|silver|tin|copper|iron|titanium|tungsten|mercury|platinum|salt|coal|timber|wool|grain|sulphur|oil"),
    "element": split("wind|sun|steam|diesel|coal|gas|peat|batteries|biogas|tides|uranium|wood chips|hydrogen|muscle power"),
}

ADJECTIVES = split(
    "green|red|blue|old|small|tall|iron|wooden|narrow|round|rusty|painted|broken|heavy|northern|southern|upper|lower|yellow|grey|steel|left|right|"
    "copper|square|long|spare|hidden|striped|cracked|glass|second|third|white|brown|back|front|silver|dusty|crooked|velvet|eastern|western")

OBJECTS = split(
    "lamp|chest|kettle|umbrella|violin case|clock|carpet|mirror|statue|teapot|bicycle|barrel|map|painting|typewriter|helmet|vase|desk|sword|"
    "telescope|suitcase|drum|anchor|globe|kite|spade|ring|basket|rug|radio|camera|notebook|stool|lantern|jug|scarf|trunk|bowl|toolbox|bell")

LOCKS = split(
    "cabinet|door|safe|gate|locker|drawer|vault|shed|barn|elevator|suitcase|garage|archive|cellar|hatch|strongbox|turnstile|bridge|workshop|"
    "server room|mailbox|boathouse|store room|laptop|phone|alarm|account|side entrance|tower|lab")

SLOTS = split(
    "slot|bay|drawer|shelf|seat|room|track|rack|hook|bin|crate|berth|desk|locker|table|platform|box|port|cell|lane|tray|stall|pigeonhole|socket|booth|bed|"
    "key|entry|register|variable|gate|hanger|tank|pocket|folder|the shelf|the tray|compartment")

MACHINES = split("server|pump|printer|turbine|router|gateway|node|lathe|sensor|crane|boiler|relay|generator|host|reactor|conveyor|backup|drone")

PETS = split("cat|dog|horse|parrot|rabbit|goldfish|donkey|canary|tortoise|hamster|goat|pony|puppy|kitten|ferret|snake|hen")

KIN = split(
    "my sister|my brother|my mother|my father|my uncle|my aunt|my boss|my neighbour|my dentist|my landlord|my niece|my nephew|my teacher|"
    "my grandmother|my grandfather|my best friend|my flatmate|my colleague|my cousin|our postman|our guide|my godson|my tutor|my barber")

EVENTS = split(
    "wedding|concert|spring fair|chess final|auction|town meeting|harvest feast|regatta|book launch|annual dinner|funeral|trial|exhibition|"
    "parade|job interview|farewell party|class reunion|charity run|opening night|inspection")

# spoken time markers: word, preposition of the question and of the sentence
TIME_WORDS = (("step", "at"), ("day", "on"), ("tick", "at"), ("minute", "at"), ("entry", "in"), ("time", "at"), ("hour", "in"), ("week", "in"),
              ("round", "in"), ("turn", "on"), ("frame", "in"), ("page", "on"), ("stage", "at"), ("cycle", "in"), ("mark", "at"), ("night", "on"),
              ("event", "at"), ("record", "in"), ("second", "at"), ("index", "at"), ("year", "in"), ("note", "in"), ("point", "at"))

# markers made of signs: the marker, the preposition of the question
TIME_SIGNS = (("[{n}]", "at"), ("#{n}", "at"), ("T{n}", "at"), ("t{n}", "at"), ("@{n}", "at"), ("step={n}", "at"), ("time={n}", "at"),
              ("n={n}", "at"), ("k={n}", "at"), ("t:{n}", "at"), ("t = {n}", "at"), ("T={n}", "at"), ("T+{n}", "at"), ("no. {n}", "in"),
              ("s{n}", "at"), ("<{n}>", "at"), ("({n})", "at"), ("ts={n}", "at"), ("tick={n}", "at"), ("day={n}", "at"))

FRAME_VERBS = split(
    "mend|carry|paint|guard|follow|admire|borrow|clean|collect|count|cover|deliver|describe|enter|explain|fill|fix|gather|greet|guide|help|hunt|"
    "ignore|invent|inspect|knock|label|lift|load|lock|mark|measure|mention|name|observe|open|order|own|pack|pass|perform|plant|polish|praise|print|"
    "produce|protect|pull|push|reach|record|remember|rent|repair|report|rescue|return|rule|save|search|serve|shape|share|sign|sort|stamp|start|"
    "store|study|supply|support|tame|taste|test|touch|trace|train|trust|turn|use|visit|wash|watch|weigh|welcome|wrap|haul|fetch|harvest|translate")

FRAME_NOUNS = split(
    "anchor|answer|apron|badge|banner|barrel|basket|beacon|bench|blanket|bottle|boundary|bracket|branch|bucket|button|cable|candle|canvas|captain|cargo|"
    "carriage|ceiling|chain|chapter|charter|chimney|circle|cliff|cloud|collar|column|contract|corner|counter|courier|crew|crown|curtain|cushion|deposit|"
    "deputy|detail|device|digest|document|domain|dowry|drawing|duty|engine|envelope|errand|estate|factor|farm|fence|ferry|figure|filter|flag|flavour|"
    "fountain|frame|garment|gauge|glove|grade|guest|guild|handle|harness|hinge|index|insurance|ladder|layer|ledger|legend|letter|level|licence|limit|"
    "lottery|margin|mascot|meadow|medal|memo|method|mission|model|motto|nephew|network|notice|oath|office|orchard|parcel|partner|pattern|pedal|"
    "permit|pigment|pillar|pilot|pocket|policy|portrait|prize|profile|project|quota|ransom|rating|reason|recipe|remedy|reply|reserve|result|ribbon|ritual|"
    "route|saddle|sample|scale|schedule|scheme|score|seal|section|sentence|shadow|shelter|signal|sketch|sponsor|stable|stamp|statue|stitch|subject|suffix|"
    "summit|surface|symbol|target|tariff|tenant|ticket|timber|token|trail|treaty|tribute|tunnel|twin|uniform|valve|vessel|voucher|wagon|weapon|wheel|window|yield")

# nouns of all kinds: what things are told apart by, what phrases and made-up categories are put together from
NOUNS = FRAME_NOUNS + split(
    "attic|acorn|alley|almond|amulet|antler|arrow|artist|ash|atlas|author|axle|bakery|bamboo|basin|beetle|bishop|bonnet|border|bracelet|bridle|brook|"
    "buckle|butter|cabin|camel|canal|carrot|castle|cattle|cavern|cedar|chalk|cherry|chorus|cinder|clover|cobbler|comet|compass|copper|coral|cottage|cradle|"
    "cricket|crystal|dagger|dancer|desert|diamond|doctor|dragon|driver|eagle|easel|edge|elbow|elephant|emblem|ember|empire|end|entrance|essay|evening|eye|"
    "farmer|feather|fiddle|finger|forest|forge|fossil|garlic|ghost|giant|ginger|goblet|grain|gravel|guitar|hammer|harbour|hazel|hedge|herald|honey|house|"
    "hunter|igloo|incense|infant|ink|inlet|insect|iris|island|isotope|ivy|jacket|jewel|joke|judge|jungle|kernel|kettle|kingdom|kitchen|knight|knot|ladle|"
    "lantern|laurel|leather|lemon|library|lily|linen|lion|lizard|locket|lumber|magnet|maiden|marble|market|meal|melon|merchant|mill|mirror|monk|mountain|"
    "mouse|museum|music|mustard|napkin|needle|nest|night|notebook|nut|oar|ocean|offer|onion|opera|orange|orchid|organ|outfit|outpost|oven|owl|oyster|"
    "paddle|palace|panther|paper|parade|parrot|pasture|peach|pebble|pencil|pepper|piano|pigeon|pillow|planet|plaster|plum|poet|pond|potato|powder|"
    "prairie|prince|quarry|quill|rabbit|raven|reef|river|root|rope|rose|sailor|salmon|sandal|satin|school|shepherd|shoe|shop|singer|sister|snow|soldier|"
    "spider|spring|spruce|stone|storm|straw|street|sugar|summer|tablet|teacher|temple|tent|thimble|thistle|thunder|tiger|tomato|tooth|top|torch|tower|toy|"
    "tractor|treasure|trumpet|tulip|turtle|uncle|urn|usher|valley|vapour|velvet|village|violet|visitor|walnut|weather|whale|whistle|willow|winter|wizard|"
    "wolf|wood|yarn|zebra")

PREPOSITIONS = split("under|behind|near|inside|beside|above|below|opposite|across from|at the foot of|on top of|within|beyond|next to|in front of")

# what stands for the marks in the tails of base_forms.py
TAIL_WORDS = {"{o}": split("me|us|him|her|them|everyone|nobody|you"), "{t}": split("school days|spring|the war|Monday|last June|childhood|the move|noon|2019|the storm|yesterday|then"),
              "{a}": split("again|always|tonight|every time|hands down|today|lately|of course|at last|at once|for ever|for sure|here|there|still|too|first|most days|without doubt|anyway|"
                            "so far|for good|in the end|no doubt|happily|as ever|now and then|fyi|right away|just so|"
    "this month|next month|this winter|next year|on most days|at the moment|every day"),
              "{c}": split("tho|though|fyi|imho|as usual|as planned|as promised|for now|for the record|just saying|haha|rn|pls|thx|cheers|apparently|obviously|I hope|they say|no joke|so you know|"
                            "sort of|more or less|give or take|at least|if anyone asks|all being well|like before|like last time|same as ever|no kidding|probably|I reckon|believe it or not|"
                            "if all goes well|promise|ok?|yay|ugh|phew|as far as I can tell|and I mean it|in case it matters|or thereabouts|not bad eh|all of us|my dear|folks|guys")}

# what may stand before a value and does not belong to it, by the word before that
_IS = split("probably|now|currently|simply|obviously|still|once again|most likely|apparently|of course|at present|indeed|actually|always|usually|surely|clearly|again")
ADVERBS = {"is": _IS, "was": split("probably|simply|still|apparently|actually|indeed|once again"), "be": split("probably|simply|only|surely"), "at": split("exactly|about|roughly|precisely"),
           "take": split("mostly|only|simply"), "got": split("just|only|again")}
