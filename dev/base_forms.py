"""Sentences of the small synthetic base (see gen_base_data.py): what is said, and what is asked.

In the tables {s} is the subject ("Mirela", "the robot", "I"), {p} its possessive, {v} the value, {n} one of the nouns of the row. Alternatives
are separated by "|".
"""
from dev.base_words import split

# kind; group (a timeline holds one attribute of a group, so that no question is ambiguous); pool; nouns; what is said; adverbial
# forms that stand before or after a clause; what is asked
ATTRIBUTES = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
place # where # place # location|place|whereabouts|position # was in {v}|stayed at {v}|could be found in {v}|spent the time in {v}|moved to {v}|was seen around {v}|lived in {v}|was at {v}|remained in {v}|was staying in {v}|had gone to {v}|turned up in {v}|was based in {v}|rested in {v}|walked around {v}|was to be found at {v} # in {v}|at {v}|from {v} # where was {s}|where did {s} stay|where could {s} be found|in which place was {s}|where was {s} staying|which place was {s} in|in what location was {s}|what place was {s} at|where did {s} spend the time|where had {s} gone|where was {s} to be found|what part of town was {s} in|in which district was {s}
town # where # place # town|home town|home|residence|district|quarter # lived in {v}|had a flat in {v}|was at home in {v}|rented a room in {v}|resided in {v}|settled in {v}|slept in {v}|kept house in {v} # at home in {v}|living in {v}|down in {v} # where did {s} live|in which town did {s} live|where was {s} living|where was {s} at home|where did {s} reside|which town was home to {s}|which district did {s} live in|what part of town did {s} live in
room # where # room # room|current room|spot # was in {v}|sat in {v}|waited in {v}|hid in {v}|went into {v}|worked in {v}|stood in {v} # inside {v}|in {v} # which room was {s} in|where was {s}|in which room was {s}|where did {s} sit|where was {s} waiting|in what room could {s} be found
venue # where # invented_place # location|place|site|area|region # was at {v}|camped near {v}|stopped in {v}|arrived in {v}|roamed {v}|passed through {v}|halted at {v}|wandered about {v} # near {v}|close to {v}|in {v} # where was {s}|where did {s} stop|where did {s} arrive|what site was {s} at|which area was {s} in|which region was {s} in|in which area was {s}
feeling # feel # feeling # mood|feeling|spirits|state of mind|emotion # felt {v}|seemed {v}|was {v}|looked {v}|felt rather {v}|appeared {v}|was feeling {v}|had become {v}|sounded {v}|grew {v}|said the mood was {v} # feeling {v}|looking {v}|in a mood that was {v}|visibly {v}|{v}|being {v}|though {v}|still {v}|as {v} as ever|quite {v}|if a little {v}|when {v}|once {v}|ever so {v}|more {v} than usual|so {v} # how did {s} feel|how was {s} feeling|what mood was {s} in|how did {s} seem|how was {s}|in what mood was {s}|how were {p} spirits|what did {s} feel|how did {s} look|what feeling did {s} have|what kind of mood was {s} in
humour # feel # invented_word # mood|temper|humour|spirits|frame of mind # felt {v}|was in a mood called {v}|was {v}|seemed {v}|said it felt {v} # feeling {v}|in {v} spirits|being {v}|though {v}|quite {v} # how did {s} feel|how was {s} feeling|what was the mood of {s}|how did {s} seem|what temper was {s} in|in what mood was {s}
drink # prefer # drink # favourite drink|favorite drink|drink|drink of choice|preferred drink|beverage # preferred {v}|asked for {v}|drank {v}|chose {v}|liked {v} best|would rather have {v}|ordered {v}|was sipping {v}|wanted {v}|went for {v}|had a liking for {v}|enjoyed {v}|favoured {v} # preferring {v}|drinking {v}|with {v} to drink|over a glass of {v}|with {v} as the favourite drink|choosing {v} # what did {s} prefer|which drink did {s} prefer|what did {s} drink|which drink did {s} ask for|what did {s} like best|what did {s} like to drink|what was {s} drinking|what did {s} prefer to drink|which drink did {s} like best|which drink did {s} choose|what beverage did {s} want|what did {s} order|what did {s} choose to drink|what would {s} rather drink
brew # prefer # invented_word # favourite drink|drink|beverage|brew|preferred drink # preferred {v}|asked for {v}|drank {v}|chose {v}|liked {v} best|would rather have {v}|poured {v}|wanted {v} # preferring {v}|drinking {v}|with a cup of {v}|with {v} as the drink # what did {s} prefer|which drink did {s} prefer|what did {s} drink|what did {s} like to drink|which drink did {s} ask for|which brew did {s} choose|what was {s} drinking|what did {s} prefer to drink
food # prefer # food # favourite food|favourite dish|favorite food|dish|preferred food # preferred {v}|asked for {v}|liked {v} best|chose {v}|would rather eat {v}|ordered {v}|craved {v}|favoured {v} # craving {v}|preferring {v}|with {v} as the favourite dish # what did {s} prefer|which food did {s} like best|what did {s} prefer to eat|what did {s} like to eat|which dish did {s} choose|what food did {s} ask for|what did {s} crave
fruit # prefer # fruit # favourite fruit|fruit|preferred fruit # preferred {v}|liked {v} best|bought {v}|asked for {v}|chose {v} # preferring {v}|with a bag of {v} # which fruit did {s} prefer|what did {s} prefer|what fruit did {s} buy|which fruit did {s} like best|what fruit did {s} choose
hue # prefer # colour # favourite colour|favorite color|colour of choice|preferred colour # preferred {v}|liked {v} best|chose {v}|favoured {v}|picked {v} # preferring {v}|with {v} as the best colour # which colour did {s} prefer|what colour did {s} like best|what did {s} prefer|which colour did {s} choose|what color did {s} pick
taste # prefer # music # favourite music|music|preferred music|musical taste # preferred {v}|liked {v} best|asked for {v}|would rather hear {v}|chose {v} # preferring {v}|with a taste for {v} # what music did {s} prefer|which music did {s} like best|what did {s} prefer|what did {s} like to hear|which music did {s} ask for
ride # prefer # vehicle # preferred transport|favourite vehicle|preferred ride # preferred {v}|chose {v}|would rather take {v}|asked for {v} # preferring {v} # what did {s} prefer to ride|which vehicle did {s} prefer|what transport did {s} choose|what did {s} prefer
meal # ate # food # meal|lunch|supper|dinner|breakfast # ate {v}|had {v}|dined on {v}|finished {v}|was served {v}|cooked {v}|lived on {v} # eating {v}|over a plate of {v}|after a meal of {v} # what did {s} eat|what did {s} have to eat|what was {s} served|what was {s} eating|which meal did {s} have|what did {s} dine on|what did {s} cook
snack # ate # invented_word # snack|meal|dish|ration # ate {v}|tasted {v}|had some {v}|chewed {v}|was given {v} # eating {v}|with a bite of {v} # what did {s} eat|what did {s} taste|what was {s} eating|which dish did {s} have|what did {s} chew
clothes # wear # clothes # outfit|clothing|clothes|dress # wore {v}|was wearing {v}|put on {v}|was dressed in {v}|had on {v}|appeared in {v} # wearing {v}|dressed in {v}|in {v} # what did {s} wear|what was {s} wearing|what did {s} have on|how was {s} dressed|what did {s} put on|which clothes did {s} wear
colour # wear # colour # colour|color|paint colour|coat colour # wore {v}|was painted {v}|was dressed in {v}|turned {v}|showed {v} # dressed in {v}|all in {v} # what colour did {s} wear|which colour did {s} show|what color was {s}|what colour was {s} dressed in
weather # sky # weather # weather|forecast|conditions # saw {v}|met {v}|reported {v}|had {v} all around|noted {v}|ran into {v} # in {v}|under {v}|despite {v}|with {v} outside # what was the weather for {s}|what weather did {s} see|what weather did {s} report|which weather did {s} meet|what conditions did {s} face
activity # do # activity # activity|occupation|pastime|task # was busy {v}|spent hours {v}|was {v}|kept {v}|went on {v}|passed the time {v} # busy {v}|while {v} # what did {s} do|what was {s} doing|how did {s} pass the time|what was {s} busy with|what kept {s} busy|which activity filled the time of {s}
companion # with # person # companion|company|partner|guest # met {v}|was with {v}|talked to {v}|travelled with {v}|sat beside {v}|was joined by {v}|kept company with {v}|was accompanied by {v} # with {v}|together with {v}|beside {v} # who was with {s}|whom did {s} meet|who kept {s} company|who joined {s}|who did {s} talk to|whose company did {s} keep|who was {p} companion
helper # help # person # helper|deputy|teacher|adviser # was helped by {v}|took advice from {v}|was taught by {v}|relied on {v}|was guided by {v} # with help from {v}|guided by {v} # who helped {s}|who taught {s}|who did {s} rely on|who guided {s}|who gave {s} advice
rival # rival # invented_name # rival|opponent|enemy # quarrelled with {v}|lost to {v}|competed with {v}|faced {v}|argued with {v} # facing {v}|against {v} # who did {s} quarrel with|who was against {s}|whom did {s} face|who did {s} compete with|who did {s} argue with
caller # call # invented_name # caller|last caller|contact # got a call from {v}|heard from {v}|spoke by phone with {v}|was rung by {v} # after a call from {v}|on the phone with {v} # who called {s}|who did {s} hear from|who rang {s}|from whom did {s} get a call
tool # hold # tool # tool|equipment|thing in hand|gear # carried {v}|used {v}|held {v}|worked with {v}|picked up {v}|borrowed {v} # with {v} in hand|carrying {v}|using {v} # what did {s} carry|which tool did {s} use|what did {s} hold|what did {s} work with|what was {s} carrying|what did {s} borrow
cargo # hold # metal # cargo|load|freight # carried {v}|was loaded with {v}|hauled {v}|transported {v}|took on {v} # carrying {v}|loaded with {v} # what did {s} carry|what cargo did {s} have|what was {s} loaded with|what did {s} haul|what did {s} transport
gift # gift # gift # gift|present|parcel # received {v}|was given {v}|got {v} as a gift|unwrapped {v} # with {v} as a gift # what did {s} receive|what was {s} given|which gift did {s} get|what present did {s} get|what did {s} unwrap
find # find # gift # find|discovery|treasure # found {v}|discovered {v}|came across {v}|dug up {v} # having found {v} # what did {s} find|what did {s} discover|what did {s} come across|what did {s} dig up
loss # lose # tool # loss|missing item|lost thing # lost {v}|mislaid {v}|missed {v}|left {v} behind # without {v}|having lost {v} # what did {s} lose|what was {s} missing|what did {s} leave behind|what did {s} mislay
book # read # book # book|reading|current book # read {v}|was reading {v}|opened {v}|borrowed {v}|was deep in {v}|leafed through {v} # reading {v}|with {v} in the bag # what did {s} read|what was {s} reading|which book did {s} open|which book did {s} borrow|what book was {s} deep in
music # hear # music # music|soundtrack|tune # listened to {v}|heard {v}|put on {v}|hummed {v}|played {v} # listening to {v}|to the sound of {v} # what did {s} listen to|what did {s} hear|which music did {s} play|what was {s} listening to|what did {s} hum
song # hear # invented_title # song|tune|anthem # sang {v}|hummed {v}|heard {v}|listened to {v} # singing {v}|humming {v} # what did {s} sing|which song did {s} hear|what did {s} hum|what tune did {s} listen to
sport # sport # sport # sport|training|exercise # practised {v}|trained in {v}|tried {v}|took up {v}|competed in {v} # between rounds of {v}|training in {v} # which sport did {s} practise|what sport did {s} try|what did {s} train in|what exercise did {s} take up
game # game # game # game|pastime game # played {v}|won at {v}|lost at {v}|was good at {v} # playing {v} # what did {s} play|which game did {s} play|what game was {s} playing|at what game did {s} sit
pet # pet # animal # pet|animal # fed {v}|looked after {v}|kept {v}|walked {v}|was followed by {v} # followed by {v}|beside {v} # which animal did {s} feed|what pet did {s} keep|what animal did {s} look after|what followed {s}|which animal was with {s}
plant # plant # plant # plant|crop|flower # watered {v}|planted {v}|grew {v}|picked {v}|smelled of {v} # among {v}|with a pot of {v} # what did {s} plant|what did {s} grow|which plant did {s} water|what did {s} pick|what crop did {s} have
vehicle # go # vehicle # vehicle|transport|means of travel # travelled by way of {v}|rode {v}|took {v}|drove {v}|got around with {v}|boarded {v} # aboard {v}|riding {v} # how did {s} travel|what did {s} ride|which vehicle did {s} take|what did {s} drive|what transport did {s} use|how did {s} get around
destination # goal # place # destination|goal|next stop|target # headed for {v}|was bound for {v}|set out for {v}|was on the way to {v}|aimed for {v} # bound for {v}|heading for {v} # where was {s} headed|where was {s} going|what was {s} bound for|what was the goal of {s}|where did {s} set out for|which way did {s} go
origin # from # place # origin|starting point|last stop # came from {v}|had left {v}|started from {v}|arrived from {v} # coming from {v}|fresh from {v} # where did {s} come from|where had {s} started|which place had {s} left|from where did {s} arrive
instrument # play # instrument # instrument|practice instrument # practised the {v}|played the {v}|tuned the {v}|bought the {v} # at the {v}|with the {v} # which instrument did {s} play|what instrument did {s} practise|what did {s} tune|which instrument did {s} buy
language # speak # language # language|tongue|subject of study # spoke {v}|studied {v}|answered in {v}|learned {v}|wrote in {v} # speaking {v}|in {v} # which language did {s} speak|what did {s} study|what tongue did {s} use|in which language did {s} answer|what language did {s} learn
job # work # job # job|work|profession|trade|role # worked as {v}|was hired as {v}|served as {v}|earned a living as {v} # working as {v}|as {v} # what did {s} work as|what work did {s} do|which job did {s} have|how did {s} earn a living|what was {s} hired as
employer # firm # invented_name # employer|company|firm # worked for {v}|was paid by {v}|signed with {v}|had a contract with {v} # on behalf of {v}|paid by {v} # who did {s} work for|which firm paid {s}|who employed {s}|with whom did {s} sign
plan # plan # plan # plan|intention|aim # planned {v}|wanted {v}|decided {v}|hoped {v}|had promised {v} # determined {v} # what did {s} plan|what did {s} want to do|what had {s} decided|what was {s} planning|what did {s} intend
worry # fret # worry # worry|concern|trouble|problem # worried about {v}|complained about {v}|kept thinking of {v}|was troubled by {v} # worried about {v}|troubled by {v} # what worried {s}|what did {s} worry about|what was {s} troubled by|what did {s} complain about|what was on the mind of {s}
dream # dream # dream # dream|vision|last dream # dreamed of {v}|saw {v} in a dream|imagined {v}|drew {v} # dreaming of {v} # what did {s} dream of|what did {s} see in a dream|which dream did {s} have|what did {s} imagine
topic # talk # topic # topic|subject|interest # talked about {v}|studied {v}|lectured on {v}|asked about {v}|wrote about {v} # talking about {v} # what did {s} talk about|which topic did {s} raise|what did {s} ask about|what did {s} write about|what was {s} interested in
illness # ill # illness # illness|complaint|symptom|ailment # suffered from {v}|had {v}|complained of {v}|was treated for {v} # with {v}|suffering from {v} # what did {s} suffer from|what was wrong with {s}|what was {s} treated for|which illness did {s} have|what symptom did {s} report
status # state # status # status|state|condition # was {v}|was found {v}|was marked as {v}|reported itself {v}|went {v} # currently {v}|marked as {v} # what state was {s} in|what was the status of {s}|what condition was {s} in|how was {s} marked
code # code # code # code|pass code|call sign|tag # entered {v}|used the code {v}|was given the code {v}|typed {v}|showed {v} # with code {v}|under the code {v} # which code did {s} use|what did {s} type|what code was {s} given|which code did {s} enter|what tag did {s} show
password # word # invented_word # password|secret word|watchword # said {v}|whispered {v}|used the word {v}|answered with {v} # whispering {v} # which word did {s} use|what did {s} whisper|what was the secret word of {s}|what did {s} answer with
amount # count # number # amount|count|total|tally # counted {v}|collected {v}|had {v} left|reached {v}|reported {v} # with {v} in all|at a count of {v} # how many did {s} count|how much did {s} have|what number did {s} reach|how many were left to {s}|what total did {s} report
price # cost # price # price|bill|fee|cost # paid {v}|was charged {v}|spent {v}|asked {v}|owed {v} # for {v}|at a cost of {v} # how much did {s} pay|what did {s} pay|what was {s} charged|how much did {s} spend|what price did {s} ask
temperature # heat # temperature # temperature|reading|heat # measured {v}|read {v}|reached {v}|recorded {v} # at {v}|with a reading of {v} # what temperature did {s} measure|how warm was it for {s}|what did {s} record|which temperature did {s} reach
speed # pace # speed # speed|pace|rate # moved at {v}|went at {v}|reached {v}|did {v} # moving at {v} # how fast was {s}|how fast did {s} go|what speed did {s} reach|at what pace did {s} move
depth # level # number # level|depth|score|rank # stood at level {v}|scored {v}|had a level of {v}|climbed to {v} # with a score of {v} # what level did {s} have|what did {s} score|how high was the level of {s}|which level was {s} at
hour # clock # clock # hour|alarm|start time|appointment # got up at {v}|set the alarm for {v}|had an appointment at {v}|went to bed at {v} # after an alarm at {v} # at what hour was {s} due|when was the appointment of {s}|what hour did {s} choose|for when was the alarm of {s} set
sector # zone # code # sector|zone|grid square|seat # occupied {v}|scanned {v}|was assigned {v}|patrolled {v} # inside {v}|in sector {v} # which sector did {s} scan|what zone was {s} assigned|which square did {s} occupy|what did {s} patrol
channel # tune # number # channel|frequency|port # listened on {v}|switched to channel {v}|answered on {v}|was tuned to {v} # on channel {v} # which channel did {s} use|what frequency was {s} on|on which channel was {s}|what was {s} tuned to
material # stuff # material # material|fabric|substance # worked with {v}|bought {v}|cut {v}|ran out of {v}|was made of {v} # using {v}|surrounded by {v} # what material did {s} use|what did {s} cut|what did {s} run out of|which substance did {s} buy
shape # sign # shape # sign|symbol|shape|mark # drew {v}|saw {v}|made {v}|showed {v} # under the sign of {v} # what sign did {s} draw|what shape did {s} see|which symbol did {s} make|what mark did {s} show
gem # jewel # gem # gem|stone|jewel # wore the {v}|polished the {v}|hid the {v}|sold the {v} # with the {v} # which stone did {s} wear|what gem did {s} polish|which jewel did {s} hide|what stone did {s} sell
energy # power # element # power source|fuel|energy # ran on {v}|relied on {v}|was powered by {v}|switched to {v} # powered by {v} # what did {s} run on|which fuel did {s} use|what powered {s}|what energy did {s} rely on
alias # name # invented_name # alias|nickname|cover name # went by {v}|was called {v}|signed as {v}|used the name {v} # under the name {v}|known as {v} # what was {s} called|which name did {s} use|what name did {s} go by|how did {s} sign
verdict # judge # invented_word # verdict|grade|label|class # was rated {v}|got the label {v}|was graded {v}|was filed under {v} # rated {v} # how was {s} rated|which label did {s} get|what grade did {s} receive|how was {s} filed
""".strip().splitlines())]

# entity types; nouns; pool; what is said beside the general forms; what is asked; reverse questions (answered by the entity)
RELATIONS = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
person # favourite instrument|instrument # instrument # {s} plays the {v}|{s} loves playing the {v} # which instrument does {s} play|what does {s} play # who plays the {v}|whose instrument is the {v}
person # home town|place of residence # place # {s} lives in {v}|{s} has settled in {v}|{s} has a house in {v} # where does {s} live|in which town does {s} live|where is {s} at home # who lives in {v}
person # birthplace|place of birth # place # {s} was born in {v}|{s} comes from {v} # where was {s} born|where does {s} come from # who was born in {v}|who comes from {v}
person # job|profession|trade # job # {s} works as {v}|{s} earns a living as {v} # what does {s} do for a living|what does {s} work as # who works as {v}
person # favourite drink|drink # drink # {s} drinks {v}|{s} likes {v} more than any other drink|{s} always orders {v} # what does {s} drink|what does {s} like to drink|which drink does {s} like best|what drink does {s} prefer # who drinks {v}|who always orders {v}
person # favourite food|favorite dish|favourite dish # food # {s} loves {v}|{s} could eat {v} every day|{s} likes {v} best # what does {s} like to eat|which food does {s} love|what does {s} prefer to eat # who loves {v}
person # favourite colour|favorite color # colour # {s} likes {v} best of all colours # which colour does {s} like best|what colour does {s} prefer # who likes {v}
person # pet|animal # animal # {s} keeps {v}|{s} owns {v}|{s} has {v} at home # which pet does {s} have|what animal does {s} keep # who keeps {v}|who owns {v}
person # employer|company # invented_name # {s} works for {v}|{s} has joined {v} # who does {s} work for|which company employs {s} # who works for {v}
person # hobby|pastime # activity # {s} spends weekends {v}|{s} enjoys {v} # what does {s} enjoy|how does {s} spend weekends # who enjoys {v}
person # language|mother tongue # language # {s} speaks {v}|{s} grew up with {v} # which language does {s} speak|what does {s} speak # who speaks {v}
person # phone number|number|mobile number # phone # {s} can be reached on {v}|you can call {s} on {v} # what number can I call {s} on|how can I reach {s} # whose phone number is {v}
person # birthday|date of birth # date # {s} was born on {v}|{s} celebrates on {v} # when was {s} born|when is the birthday of {s} # whose birthday is {v}
person # shoe size|height in centimetres|age # small #  #  #
person # best friend|closest friend # invented_name # {s} trusts {v} most|{s} has known {v} for years # who is the best friend of {s}|whom does {s} trust most # who trusts {v} most
person # sport # sport # {s} trains in {v}|{s} practises {v} # which sport does {s} practise|what sport does {s} train in # who practises {v}
person # car|vehicle # vehicle # {s} drives {v}|{s} gets around with {v} # what does {s} drive|how does {s} get around # who drives {v}
person # worry|fear # worry # {s} worries about {v}|{s} is afraid of {v} # what worries {s}|what is {s} afraid of # who worries about {v}
person # locker number|seat|badge number # code #  #  # who was assigned {v}
person # middle name|nickname|stage name # invented_word #  #  # who also goes by {v}
person # favourite book|favorite book # book # {s} has read {v} twice|{s} recommends {v} # which book does {s} recommend|what has {s} read twice # who recommends {v}
person # allergy # food # {s} is allergic to {v}|{s} must not eat {v} # what is {s} allergic to|what must {s} not eat # who is allergic to {v}
person # flower|favourite plant # plant # {s} grows {v}|{s} is fond of {v} # what does {s} grow # who grows {v}
person # salary|rent|debt # price #  #  #
person # lawyer|doctor|teacher|landlord # invented_name #  #  #
land # capital|seat of government # invented_place # the seat of government of {s} is {v}|{s} is ruled from {v} # from where is {s} ruled|which town is the capital of {s} # of which land is {v} the capital|which land has {v} as its capital
land # currency|money # invented_word # people in {s} pay in {v} # how do people pay in {s}|what money is used in {s} # where do people pay in {v}
land # longest river|main river # invented_name # the {v} is the longest river of {s} # which river is the longest in {s} # where is the {v} the longest river
land # main export|chief export # metal # {s} sells {v} to the world|{s} lives off {v} # what does {s} export|what does {s} sell to the world #
land # king|president|ruler # invented_name # {v} rules {s}|{s} is ruled by {v} # who rules {s}|by whom is {s} ruled # what does {v} rule
land # official language|language # invented_word # people in {s} speak {v} # what do people speak in {s} # where do people speak {v}
land # highest mountain|highest peak # invented_place # {v} is the highest mountain in {s} # which mountain is the highest in {s} # in which land is {v} the highest mountain
land # population|area code|founding year # number # # #
town # mayor # invented_name # {v} runs {s}|{v} was elected mayor of {s} # who runs {s}|who was elected mayor of {s} # of which town is {v} the mayor
town # river # invented_name # {s} lies on the {v} # on which river does {s} lie # which town lies on the {v}
town # speciality|local dish # food # {s} is famous for {v} # what is {s} famous for # which town is famous for {v}
town # twin town|sister town # place # {s} is twinned with {v} # what is {s} twinned with # which town is twinned with {v}
company # founder # invented_name # {s} was founded by {v}|{v} founded {s} # who founded {s}|by whom was {s} founded # what did {v} found|which company did {v} found
company # headquarters|head office # place # {s} is based in {v}|{s} has its head office in {v} # where is {s} based|where does {s} have its head office # which company is based in {v}
company # main product|product # tool # {s} makes its money with {v} # what does {s} make its money with #
company # director|boss|chief executive # invented_name # {s} is led by {v}|{v} runs {s} # who leads {s}|who runs {s} # which company does {v} run
company # turnover|share price # price #  #  #
company # motto|slogan # phrase # {s} advertises with the words {v} # with which words does {s} advertise # who advertises with the words {v}
ship # captain|master # invented_name # {s} is commanded by {v}|{v} sails {s} # who commands {s}|who sails {s} # what does {v} command
ship # home port|port # place # {s} sails from {v} # from where does {s} sail|which port does {s} sail from # which ship sails from {v}
ship # cargo|load # metal # {s} carries {v}|{s} is loaded with {v} # what does {s} carry|what is {s} loaded with # which ship carries {v}
ship # call sign|berth|hull number # code #  #  #
ship # top speed|draught|length # number # # #
object # colour|color # colour # {s} is painted {v}|{s} is {v} # what colour is {s}|how is {s} painted #
object # owner # invented_name # {s} belongs to {v}|{v} owns {s} # who owns {s}|to whom does {s} belong|whose is {s} # what belongs to {v}|what does {v} own
object # hiding place|location|place # room # {s} is kept in {v}|{s} is in {v}|{s} was left in {v}|you will find {s} in {v} # where is {s}|where is {s} kept|where can I find {s}|where was {s} left # what is kept in {v}
object # material # material # {s} is made of {v} # what is {s} made of #
object # price|value # price # {s} costs {v}|{s} is worth {v} # how much is {s}|what does {s} cost|how much is {s} worth # what costs {v}
object # weight # weight # {s} weighs {v} # how heavy is {s}|how much does {s} weigh # what weighs {v}
object # maker|inventor # invented_name # {s} was made by {v}|{v} built {s} # who made {s}|who built {s} # what did {v} make
object # content|filling # gift # {s} contains {v}|inside {s} there is {v} # what is in {s}|what does {s} contain # what contains {v}
lock # pass code|access code|code|entry code # pin # {s} opens with {v}|to open {s} enter {v}|use {v} for {s} # how do I open {s}|what opens {s}|which code opens {s} # what does {v} open|what opens with {v}
lock # PIN|door code|combination # pin # {s} opens with {v}|type {v} at {s} # what do I type at {s}|which number opens {s} # what opens with {v}
lock # password|passphrase|secret word # secret # {s} unlocks with {v}|say {v} at {s} # what unlocks {s}|what do I say at {s} # what unlocks with {v}
lock # key|serial key|token # uuid # {s} accepts {v} # what does {s} accept # what accepts {v}
register # value|content of the cell|entry # number # {s} holds {v}|{s} is set to {v}|{s} = {v}|{s} -> {v}|{s}\t{v}|put {v} into {s} # what does {s} hold|what is stored in {s}|what is {s} set to|{s}|which value is in {s} # what holds {v}
register # word|value|setting # invented_word # {s} holds {v}|{s} is set to {v}|{s} = {v}|{s} -> {v}|{s}: {v}|store {v} in {s} # what does {s} hold|what is stored in {s}|what is {s} set to|{s} # what holds {v}
register # code|token|entry # code # {s} maps to {v}|{s} => {v}|{s} stores {v}|{s}: {v} # what does {s} map to|what does {s} store|which code is under {s} # what maps to {v}
animal # name # invented_word # {s} is called {v}|{s} answers to {v}|they named {s} {v} # what is {s} called|what is the name of {s}|how is {s} called # which animal is called {v}
animal # age # small # {s} is {v} years old # how old is {s} #
animal # weight in grams # small # {s} weighs {v} grams # how much does {s} weigh|how heavy is {s} #
animal # favourite food|food # food # {s} eats {v}|{s} likes {v} # what does {s} eat|what does {s} like # who eats {v}
animal # owner # invented_name # {s} belongs to {v}|{v} looks after {s} # who owns {s}|who looks after {s} #
work # author|writer # invented_name # {s} was written by {v}|{v} wrote {s} # who wrote {s}|by whom was {s} written # what did {v} write
work # year of publication|page count # number # # #
work # publisher # invented_name # {s} came out at {v}|{v} published {s} # who published {s} # what did {v} publish
work # hero|main character # invented_name # {s} tells the story of {v} # whose story does {s} tell # which book tells the story of {v}
event # date|day # date # {s} takes place on {v}|{s} is on {v} # when is {s}|when does {s} take place # what takes place on {v}
event # venue|place # place # {s} is held in {v}|they hold {s} in {v} # where is {s} held|where does {s} take place # what is held in {v}
event # starting time|time # clock # {s} begins at {v}|{s} starts at {v} # when does {s} begin|at what time does {s} start # what begins at {v}
event # winner|host|guest of honour # invented_name #  #  #
speaker # new home|new town # place # {s}: I moved to {v} last week|{s}: we live in {v} now, finally|{s}: guess what, I found a flat in {v} # where did {s} move|where did {s} find a flat|where does {s} live # who moved to {v}
speaker # order|drink # drink # {s}: can I have {v}, please|{s}: I only drink {v}|{s}: for me {v}, as always # what did {s} order|what does {s} drink|what did {s} want to drink # who ordered {v}
speaker # arrival|time of arrival # clock # {s}: I get there at {v}|{s}: be with you at {v}|{s}: {v} and I am there # when does {s} get there|at what time does {s} arrive # who gets there at {v}
speaker # lunch|dinner # food # {s}: I had {v} today|{s}: we cooked {v} last night # what did {s} eat|what did {s} have # who had {v}
speaker # mood|feeling # feeling # {s}: I am {v} today|{s}: honestly, I feel {v}|{s}: this makes me {v} # how does {s} feel|how is {s}|what mood is {s} in #
speaker # holiday destination|travel plan # place # {s}: we are flying to {v} in June|{s}: I booked a trip to {v} # where is {s} flying|where did {s} book a trip # who booked a trip to {v}
speaker # present|purchase # gift # {s}: I bought {v} yesterday|{s}: look, I got {v} # what did {s} buy|what did {s} get # who bought {v}
speaker # new job # job # {s}: I start as {v} on Monday|{s}: they hired me as {v} # what does {s} start as|what was {s} hired as # who was hired as {v}
speaker # friend|visitor # invented_name # {s}: {v} came by yesterday|{s}: I ran into {v} at the station # who came by at the place of {s}|whom did {s} run into|who visited {s} # who ran into {v}
speaker # plan # plan # {s}: tomorrow I want {v}|{s}: I have decided {v} # what does {s} want|what has {s} decided #
machine # status|state # status # {s} is {v}|{s} reports {v} # what is the state of {s}|what does {s} report|how is {s} #
machine # IP address|address # ip # {s} listens on {v}|{s} answers at {v} # where does {s} listen|at which address is {s} # which machine answers at {v}
machine # version|build|firmware # version # {s} runs {v}|{s} was upgraded to {v} # what does {s} run|which version is on {s} # which machine runs {v}
machine # administrator|operator # invented_name # {s} is looked after by {v}|{v} runs {s} # who looks after {s}|who runs {s} # which machine does {v} look after
""".strip().splitlines())]

# relations that may change during a life: entity type, pool, nouns, what is said, what is asked
UPDATES = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
person # place # home|address # {s} lives in {v}|{s} has moved to {v}|{s} is staying in {v}|{s} rents a flat in {v}|{x} helped {s} to move to {v} # where does {s} live|where is {s} staying|where is {s} at home
person # place # whereabouts|location # {s} went to {v}|{s} travelled to {v}|{s} took a bus to {v}|{s} is in {v}|{s} set off and reached {v}|{s} was seen in {v}|{x} met {s} in {v}|{s} walked all the way to {v}|{s} drove over to {v} # where is {s}|where did {s} go|where can {s} be found|where has {s} gone|where was {s} seen
person # room # room|spot # {s} stepped into {v}|{s} hurried to {v}|{s} moved over to {v}|{s} is in {v}|{s} came into {v}|{x} followed {s} into {v}|{s} sat down in {v}|{s} slipped into {v} # where is {s}|where did {s} go|in which room is {s}|where could one meet {s}
person # invented_place # position|stop # {s} arrived in {v}|{s} rode to {v}|{s} sailed to {v}|{s} headed for {v} and got there by night|{s} camps near {v}|{x} drove {s} to {v} # where is {s}|where did {s} get to|where does {s} camp
person # drink # drink # {s} drinks {v}|{s} has switched to {v}|{s} prefers {v}|{s} orders {v} # what does {s} drink|what does {s} prefer|what does {s} order
person # food # lunch|usual dish # {s} eats {v} at noon|{s} swears by {v}|{s} always takes {v} # what does {s} eat at noon|which dish does {s} take|what does {s} swear by
person # job # job # {s} works as {v}|{s} has been hired as {v}|{s} earns money as {v} # what does {s} work as|what does {s} do for a living
person # feeling # mood # {s} is {v}|{s} feels {v}|{s} looks {v}|{s} says: I am {v} # how is {s}|how does {s} feel|in what mood is {s}
person # clothes # outfit # {s} wears {v}|{s} put on {v}|{s} is dressed in {v} # what does {s} wear|how is {s} dressed|what did {s} put on
person # phone # phone number # {s} can be reached on {v}|call {s} on {v}|{s} has the number {v} # how can {s} be reached|on which number do I call {s}
person # gift # belonging|load # {s} holds {v}|{s} picked up {v}|{s} carries {v}|{x} handed {v} to {s} # what does {s} hold|what does {s} carry|what did {s} pick up
object # room # place|location # {s} is in {v}|{s} was moved to {v}|someone put {s} in {v}|{x} took {s} to {v}|{x} carried {s} into {v}|{s} ended up in {v}|{x} left {s} in {v}|you will find {s} in {v}|{x} fetched {s} and brought it to {v} # where is {s}|where can I find {s}|where was {s} put|where did {s} end up
object # place # place|location # {s} stands in {v}|{s} was shipped to {v}|{x} sent {s} to {v}|{s} travelled to {v} by lorry|{s} is on show in {v} # where is {s}|where does {s} stand|where was {s} sent
object # invented_name # owner # {s} belongs to {v}|{s} was sold to {v}|{v} bought {s}|{v} owns {s}|{x} gave {s} to {v} # who owns {s}|whose is {s}|to whom does {s} belong
object # price # price # {s} costs {v}|the price of {s} is {v}|{s} goes for {v} # what does {s} cost|how much is {s}
object # colour # colour # {s} is {v}|{s} was painted {v}|{x} painted {s} {v} # what colour is {s}|in which colour was {s} painted
machine # status # status # {s} is {v}|{s} reports {v}|status of {s}: {v}|{s} went {v} # what is the state of {s}|how is {s}|what does {s} report
machine # version # version # {s} runs {v}|{s} was upgraded to {v}|{x} put {v} on {s} # which version does {s} run|what runs on {s}
machine # temperature # temperature|reading # {s} shows {v}|{s} reads {v}|{s} is at {v} # what does {s} show|what does {s} read
machine # ip # address # {s} answers at {v}|{s} listens on {v} # where does {s} answer|at which address is {s}
lock # pin # code # the code of {s} is {v}|{s} opens with {v}|type {v} at {s}|{x} set {s} to {v} # what opens {s}|which code opens {s}|what do I type at {s}
lock # secret # password # {s} unlocks with {v}|the password for {s} is {v}|say {v} at {s} # what unlocks {s}|which password does {s} take
lock # uuid # token # {s} accepts {v}|the token for {s} is {v} # which token does {s} accept
ship # place # position # {s} lies in {v}|{s} has reached {v}|{s} dropped anchor off {v}|{s} sailed to {v} # where is {s}|where does {s} lie|where did {s} sail
ship # metal # cargo # {s} carries {v}|{s} took on {v}|{x} loaded {s} with {v} # what does {s} carry|what is {s} loaded with
slot # number # value|label|mark # {s} got the {n} {v}|{s} received the {n} {v}|they put the {n} {v} on {s}|{s} now bears the {n} {v}|{x} wrote the {n} {v} on {s}|{v} is the {n} that {s} has|the {n} at {s} is {v}|{s} bears {v}|{v} sits on {s} # which {n} is on {s}|what does {s} bear|what sits on {s}|which {n} did {s} get
slot # invented_word # label|mark # {s} got the {n} {v}|{s} received the {n} {v}|they put the {n} {v} on {s}|{s} now bears the {n} {v}|{v} is the {n} that {s} has|the {n} at {s} is {v}|{s} was marked {v} # which {n} is on {s}|how is {s} marked|which {n} did {s} get
slot # number # value # {s} holds {v}|{s} = {v}|{s} is set to {v}|{s} := {v}|set {s} to {v}|put {v} into {s}|write {v} to {s}|{s} contains {v} # what does {s} hold|what is {s} set to|what is stored in {s}|{s}
slot # invented_word # word # {s} holds {v}|{s} = {v}|{s} -> {v}|{s}: {v}|store {v} in {s}|{s} takes {v}|{v} goes into {s} # what does {s} hold|what is in {s}|what is stored in {s}|{s}
slot # code # code # {s} holds {v}|{s} shows the {n} {v}|{s} was changed to the {n} {v}|{x} gave the {n} {v} to {s}|{s} => {v}|{s} stores {v}|{s} carries the code {v}|{s} was given {v} # what does {s} hold|which code does {s} store|which code is under {s}
slot # invented_name # guest|holder # {v} has {s}|{s} is taken by {v}|{s} goes to {v}|{x} gave {s} to {v} # who has {s}|who holds {s}|by whom is {s} taken
slot # gift # content|item # {s} holds {v}|{x} put {v} into {s}|inside {s} lies {v}|{s} was filled with {v} # what is in {s}|what lies inside {s}|what does {s} hold
register # number # value # {s} holds {v}|{s} took on the {n} {v}|{s} keeps the {n} {v}|{s} = {v}|{s} is set to {v}|{s} reads {v} # what does {s} hold|what is {s} set to|{s}
register # secret # setting|entry # {s} holds {v}|{s} = {v}|{s}: {v}|{s} points to {v} # what does {s} hold|what does {s} point to|{s}
company # invented_name # director # {s} is led by {v}|{v} has taken over {s}|{v} runs {s} # who leads {s}|who runs {s}
company # place # head office # {s} is based in {v}|{s} has its desks in {v} # where is {s} based
company # price # share price # shares of {s} trade at {v}|{s} closed at {v} # at what price do shares of {s} trade|at what did {s} close
event # date # date # {s} takes place on {v}|{s} is on {v}|{s} was put off to {v} # when is {s}|when does {s} take place|for when is {s} planned
event # clock # time # {s} begins at {v}|{s} starts at {v} # when does {s} begin|at what time does {s} start
event # place # venue # {s} is held in {v}|they moved {s} to {v} # where is {s} held|where does {s} take place
animal # room # place # {s} sleeps in {v}|{s} ran into {v}|{s} hides in {v}|{x} carried {s} to {v} # where is {s}|where does {s} sleep|where did {s} run
town # invented_name # mayor # {v} runs {s}|{s} elected {v} # who runs {s}|whom did {s} elect
""".strip().splitlines())]

# how a statement says that it changes something: the statement, and what held before
CHANGES = split(
    "now {}|{} now|since today {}|as of now {}|{}, no longer {old}|change: {}|news: {}|{} these days|from now on {}|it has changed: {}|update: {}|"
    "{} instead of {old}|correction: {}|not {old} any more: {}|{} after all|later {}|then {}|after that, {}|next, {}|{} this time|{} again something new|"
    "{} - {old} is over|{}; it was {old} before|{}, which replaces {old}|{} rather than {old}|no longer {old}: {}|{} (before: {old})|until now {old}, but {}|"
    "forget {old}: {}|scratch that, {}|as it turns out, {}|{} since this morning|(changed) {}|afterwards {}|a bit later {}|meanwhile {}|{}, and not {old}")

PREFIXES = split(
    "Note: |For the record, |By the way, |Remember: |As far as I know, |It is said that |Reminder: |FYI, |Update from the office: |I was told that |"
    "According to the letter, |Everyone knows that |Please note that |Just so you know, |Memo: |Apparently |From the diary: |They say |You should know that |"
    "In the file it says that |One more thing: |It turns out that |Keep in mind that |The clerk wrote that |Some news: ", "|")

CAUSES = split(
    "because of the strike|because the road was closed|because the pump had failed|since the shop was shut|as the bell had rung twice|"
    "because {x} had asked for it|since {x} was late again|as {x} had advised|though {x} disagreed|because a letter from {x} had come|"
    "because the rent was due|since it was market day|as the lamps went out|because the ferry never came|although it was late|"
    "though nobody had expected that|because of an old promise|since the news had spread|as the harvest was in|because the clock had stopped|"
    "for no clear reason|as usual|like the time before|for once|against all advice|so it was said|or so the report claims|as agreed|"
    "because the wind had turned|since the children were away|as the doctor had ordered|because the cook was ill")

AFTERMATHS = split(
    "after a quarrel with {x}|after a quiet night|after the storm|before the long journey|after hours of waiting|after a short rest|"
    "before supper|after the parade|after a visit from {x}|after selling the cart|during a long pause|after the bell|before the first frost|"
    "after a strange dream|after a glance at the map|after the meeting|without a word|with some delay|in spite of everything|"
    "after a swim in the lake|after losing a bet|following a call from {x}|thanks to {x}|to the surprise of {x}|just before dusk|soon after dawn|"
    "after a day of hard work|after the third attempt|in the middle of the night|while the others slept")

FILLERS = split(
    "Nothing else happened|The rest was routine|A hound barked all night|It was a quiet hour|{x} wrote it down|Someone knocked twice|The lamps flickered|"
    "A ship passed|No change otherwise|The post came late|It had rained earlier|{x} sent greetings|The bread was stale|A window stood open|"
    "The floor had been swept|Two chairs were missing|The wind dropped later|All was well|The stove was cold|A bell rang far away|"
    "The report ends here|{x} laughed about it|Nobody else was there|The road was muddy|Prices rose again")

# a question inside an instruction
QUESTION_WRAPS = split(
    "{q} Answer with the value only.|{q} Just the answer, please.|{q} Be brief.|I wrote it down somewhere above. {q}|Think back to what came earlier. {q}|"
    "Using only what was said so far, answer this: {q}|{q} I cannot recall it myself.|Sorry to bother you once more. {q}|Here is a question about the notes: {q}|"
    "Question: {q}|Q: {q}|{q} (one short phrase)|{q} A few words are enough.|We went over this before. {q} Please look it up for me.|"
    "{q} No explanation needed.|My memory fails me. {q}|Somebody asked me this an hour ago and I had no idea: {q}|From the records: {q}|{q} Thanks.|Hey, {q}|{q} I only want the value.|{q} Give the exact words.|{q} That is what I need.|{q} It has to be exact.|Tell me this. {q}|"
    "{q} You have read it.|{q} I forgot.|Look it up: {q}|{q} Reply in a word or two.|I need to know something. {q}|{q} I need it at once.|{q} Copy it from the text.", "|")

# frames of made-up predicates: what is said # what is asked (~: to be completed) # the question turned round. {k} key, {v} value, {p} the key's,
# {n} noun, {b} {z} {d} a verb, its third person and past participle, {m} an invented word, {r} a preposition
FRAMES = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
{k} {z} {v}|every evening {k} {z} {v}|{k} always {z} {v} # what does {k} {b}|{k} {z} what|what is it that {k} {z}|~{k} {z}|tell me what {k} {z}|whom or what does {k} {b} # what {z} {v}|who {z} {v}|by what is {v} {d}
{v} is {d} by {k}|{v} was {d} by {k}|by {k} they mean the one that {d} {v} # what is {d} by {k}|what was {d} by {k}|what did {k} {b}|{k} {d} what # by whom was {v} {d}|what {d} {v}|~{v} was {d} by
the {n} of {k} {z} {v}|{p} {n} {z} {v} # what does the {n} of {k} {b}|what does {p} {n} {b}|~the {n} of {k} {z}|{p} {n} {z} what #
the {n} of {k} is {v}|{p} {n} is {v}|{v} is the {n} of {k}|as {n}, {k} has {v} # what is the {n} of {k}|what is {p} {n}|~the {n} of {k} is|~{p} {n} is|which {n} does {k} have|{k}: which {n}|name the {n} of {k} # whose {n} is {v}|which one has {v} as {n}
{r} the {n} {k} one finds {v}|{v} can be seen {r} the {n} {k} # what does one find {r} the {n} {k}|what can be seen {r} the {n} {k}|~{r} the {n} {k} one finds|{r} the {n} {k} there is what # {r} which {n} does one find {v}
{n} {k}: {v}|{n} {k} - {v}|{n} {k} gets {v} # which partner has {n} {k}|{n} {k}|what is given for {n} {k}|what does it say for {n} {k}|~{n} {k}:|which entry has {n} {k} # which {n} has {v}
"{k}" -> "{v}"|"{k}" => "{v}"|'{k}' maps to '{v}' # what does "{k}" map to|which value belongs to "{k}"|"{k}" -> what|~"{k}" -> "|look up "{k}"|what is found under {k} # what maps to "{v}"
{"{k}": "{v}"}|"{k}": "{v}"|{"key": "{k}", "value": "{v}"} # what value does "{k}" have|which value has the key {k}|give the value of {k}|read the field {k}|what stands behind the key "{k}" # which key has the value {v}
{k} = {v}|{k}={v}|set {k} = {v}|{k} := {v} # what is {k} equal to|what is {k} set to|~{k} =|which value does {k} have|{k}|print {k} #
{k},{v}|{k}; {v}|{k} / {v}|{k} - {v}|row: {k}, {v} # what stands next to {k}|what is next to {k}|what is in the row of {k}|which entry belongs to {k} # what stands next to {v}
{n}.{k} = {v}|{n}/{k}: {v}|[{n}] {k} = {v}|<{n} name="{k}">{v}</{n}> # what is {n}.{k}|what is {k} in {n}|which value has {k} under {n}|get {n}.{k} #
{k} {z} {v} {r} the {n}|{r} the {n}, {k} {z} {v} # what does {k} {b} {r} the {n}|{r} the {n}, what does {k} {b}|what is it that {k} {z} {r} the {n} # what {z} {v} {r} the {n}
the {m} {n} for {k} was found to be {v}|they found that the {m} {n} for {k} must be {v}|for {k} the {m} {n} stands at {v} # what is the {m} {n} for {k}|what was the {m} {n} for {k} found to be|~the {m} {n} for {k} is|which {m} {n} does {k} have #
{k} was paired with {v}|{k} and {v} belong together|{v} joined {k}|{k} is linked to {v} # what was {k} paired with|with what does {k} belong together|what is {k} linked to|which partner has {k} # what was {v} paired with|what is linked to {v}
if anyone says {k}, reply {v}|to {k} the right reply is {v}|whoever hears {k} must say {v} # what is the right reply to {k}|what must one say to {k}|how does one reply to {k} # to what is {v} the reply
{k} stands for {v}|{k} means {v}|by {k} we mean {v}|{k} is short for {v} # what does {k} mean|what does {k} stand for|what is meant by {k}|~{k} stands for|define {k} # what means {v}|what stands for {v}
in {m}, {k} is called {v}|the {m} word for {k} is {v}|{k} is {v} in {m} # what is {k} called in {m}|what is the {m} word for {k}|how do you say {k} in {m}|translate {k} into {m} # what is {v} in {m} the word for
{k} sent {v} to the {n}|the {n} got {v} from {k}|{k} gave {v} to the {n} # what did {k} send to the {n}|what did the {n} get from {k}|what did {k} give to the {n} # who sent {v} to the {n}
{k} won {v} at the {n}|at the {n}, {v} went to {k} # what did {k} win at the {n}|what went to {k} at the {n} # who won {v} at the {n}
under the {n} of {k} they wrote {v}|the {n} of {k} bears the words {v}|on {p} {n} it says {v} # what does it say on {p} {n}|what is written on the {n} of {k}|which words does the {n} of {k} bear # on whose {n} does it say {v}
you reach {k} by way of {v}|the way to {k} leads past {v}|{v} lies on the way to {k} # by way of what does one reach {k}|what lies on the way to {k}|past what does the way to {k} lead # what does one reach by way of {v}
{k} signed for {v}|{k} has paid for {v}|{v} was paid for by {k} # what did {k} sign for|what has {k} paid for|for what did {k} pay # who paid for {v}|who signed for {v}
{k} will {b} {v}|{k} is going to {b} {v}|{k} has promised to {b} {v} # what will {k} {b}|what is {k} going to {b}|what has {k} promised to {b}|~{k} will {b} # who will {b} {v}
{k} refused to {b} anything but {v}|{k} would only {b} {v} # what would {k} {b}|what is the only thing that {k} would {b}|~{k} would only {b} #
next to {k} stands {v}|beside {k} there is {v}|{v} is right beside {k} # what stands next to {k}|what is beside {k}|what's next to {k} # next to what stands {v}
{k} was replaced by {v}|{v} took the place of {k} # by what was {k} replaced|what took the place of {k} # what was replaced by {v}
{n} no. {k} was made out to {v}|{n} {k} is in the name of {v} # to whom was {n} {k} made out|in whose name is {n} {k}|who has {n} {k} # which {n} is in the name of {v}
{k}'s {n} {d} {v} last year|last year the {n} of {k} {d} {v} # what did {k}'s {n} {b} last year|what was {d} by the {n} of {k} #
to {b} {k}, use {v}|{k} can only be {d} with {v}|one {z} {k} with {v} # with what is {k} {d}|what do I use to {b} {k}|how does one {b} {k} # what is {d} with {v}
{v}: {n} for {k}|{n} for {k} is {v}|for {k}, the {n} reads {v} # which {n} is for {k}|what does the {n} read for {k}|~{n} for {k}: # for whom or what is the {n} {v}
{v} ({k})|{v} <{k}>|{v}, see {k} # which entry carries the mark {k}|what does {k} refer to #
""".strip().splitlines())]

WRAPS_BEFORE = split(
    "By the way,|I wanted to say that|Listen,|Before I forget,|Please remember that|It was a long day, but I learned one thing:|As you may have heard,|"
    "The weather was awful.|Nothing much happened today.|While we waited, the clerk explained that|According to the old register,|In other news,|"
    "Somewhere in the letter it said that|Let me add that|There is one more line in the notebook:|For the minutes:|I had lunch late and then read the manual.|"
    "Hello again!|As far as the list goes,|My uncle keeps repeating that|Write this down:|You will need this later:|It is a small thing, yet|Fun fact:|"
    "We argued about it for an hour.|The report is long, and on its last page one reads:|Dear all,|A note was pinned to the door:|After some digging I can say that")

WRAPS_AFTER = split(
    "Keep that in mind.|So much for that.|I may ask about it later.|That is all for today.|Everybody laughed.|Please confirm.|The rest can wait.|"
    "No idea why.|Do not lose it.|We then went on with the meeting.|It took me a while to find out.|Best wishes.|Make of it what you will.|"
    "The other pages were blank.|Thanks for your patience.|I shall write again soon.|Then the bus came.|At least that is what the file says.|Done.|End of note.")

# chat lines in the first person, and what is asked of the speaker later: pool # what is said # what is asked. {s} the speaker, {p} the speaker's
CHAT_LINES = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
clock # my train leaves at {v}|I have to catch the {v} train|train is at {v} for me # when does {p} train leave|which train does {s} have to catch|at what time does {p} train go
clock # the dentist can see me at {v}|got my tooth appointment: {v}|I am at the dentist at {v} # when does the dentist see {s}|at what time is {p} dentist appointment
clock # I usually get up at {v}|my alarm goes off at {v} # when does {s} get up|when does {p} alarm go off
clock # the plumber comes by at {v}|expect the plumber, {v} he said # when does the plumber come to {s}|at what time does {p} plumber come
clock # {v} is when I pick up the kids|I fetch the kids at {v} # when does {s} fetch the kids|at what time are {p} kids picked up
clock # the bus drops me off at {v}|my bus is due {v} # when is {p} bus due|at what time does the bus drop {s} off
clock # dinner at ours is {v}|we eat at {v}, come along # when is dinner at {p} place|at what time does {s} eat
clock # bedtime here is {v}|I go to bed around {v} # when does {s} go to bed|at what time is {p} bedtime
clock # my haircut is at {v}|the barber has me down for {v} # when is {p} haircut|at what time is {s} at the barber
clock # the ferry takes us across at {v}|we are on the {v} ferry # when does {p} ferry go|at what time is {s} on the ferry
clock # my exam begins {v}|they let us into the exam from {v} # when does {p} exam begin|at what time is {p} exam
place # this autumn the choir sings in {v}|in {v} I sing with the choir # where does {s} sing with the choir|in which place is {p} choir
place # my cousin studies in {v}|my cousin went off to {v} # where does {p} cousin study|to which place did {p} cousin go
clock # my shift starts at {v} tomorrow|they put me on the {v} shift # when does {p} shift start|which shift is {s} on
clock # my parents arrive at {v}|I pick up my parents at {v} # when do {p} parents arrive|at what time does {s} pick up the parents
place # my plane lands in {v} first|I change planes in {v} # where does {s} change planes|where does {p} plane land first
place # my office moved to {v}|I have a desk in {v} now # where is {p} office|where does {s} have a desk
place # I left my bag in {v}|my bag must still be in {v} # where did {s} leave the bag|where is {p} bag
place # we spent the honeymoon in {v}|our honeymoon was in {v} # where did {s} spend the honeymoon|where was {p} honeymoon
place # my car is parked at {v}|I parked near {v} # where did {s} park|where is {p} car parked
invented_place # my hotel is in {v}|I sleep at a hotel in {v} # where is {p} hotel|where does {s} sleep
invented_place # I grew up in {v}|my childhood was all {v} # where did {s} grow up|where did {s} spend the childhood
invented_word # our dog answers to {v}|the name of my dog is {v}|we called the dog {v} # what is {p} dog called|what is the name of {p} dog|to which name does {p} dog answer
invented_word # I named the boat {v}|my boat has {v} on its bow # what is {p} boat called|which name is on {p} boat
invented_word # my band calls itself {v}|I play in a band, {v} # what is {p} band called|in which band does {s} play
invented_word # my wifi is called {v}|look for my wifi, {v} # what is {p} wifi called|which wifi is {p}
secret # my wifi wants {v} as password|type {v} to get into my wifi # what is the password of {p} wifi|how does one get into {p} wifi
pin # my locker opens with {v}|use {v} for my locker # with what does {p} locker open|which code opens {p} locker
pin # the code for my front gate is {v}|my gate wants {v} # what is the code of {p} front gate|which code does {p} gate want
code # my booking is under {v}|they gave me {v} for the booking # what is {p} booking code|under which code is {p} booking
code # I am in seat {v}|my seat is {v} # which seat is {s} in|what is {p} seat
code # my flight is {v}|I fly with {v} # what is {p} flight|with which flight does {s} fly
code # my parcel has the tracking code {v}|track my parcel with {v} # what is the tracking code of {p} parcel|how can one track {p} parcel
code # the plate of my car says {v}|I drive around with the plate {v} # what is the plate of {p} car|what does {p} plate say
price # I paid {v} for the bike|my bike cost me {v} # how much did {s} pay for the bike|what did {p} bike cost
price # my rent went up to {v}|I pay {v} for the flat each month # how much rent does {s} pay|what is {p} rent
price # the garage wants {v} for my car|fixing my car comes to {v} # what does the garage want for {p} car|what does it cost to fix {p} car
price # I lent him {v}|he still owes me {v} # how much did {s} lend him|how much does he owe {s}
date # my thesis is due {v}|I hand in the thesis on {v} # when is {p} thesis due|when does {s} hand in the thesis
date # my lease ends on {v}|I must be out of the flat by {v} # when does {p} lease end|by when must {s} be out of the flat
date # we marry on {v}|our wedding is on {v} # when does {s} marry|on which day is {p} wedding
date # I am on leave until {v}|back in the office after {v} # until when is {s} on leave|after which day is {s} back in the office
date # my passport runs out on {v}|I need a new passport before {v} # when does {p} passport run out|before when does {s} need a new passport
phone # call me on {v}|my new number is {v} # on which number can one call {s}|what is {p} new number
phone # my landlady has the number {v}|you reach my landlady under {v} # what is the number of {p} landlady|how does one reach {p} landlady
small # I live at number {v}|my house has the number {v} # at which number does {s} live|what is {p} house number
small # I finished the run in {v} minutes|the run took me {v} minutes # in how many minutes did {s} finish the run|how long did the run take {s}
small # I am on bus {v} every day|bus {v} takes me home # which bus takes {s} home|on which bus is {s} every day
small # my kid is in group {v}|they put our kid into group {v} # in which group is {p} kid
invented_name # my new boss is {v}|I report to {v} now # who is {p} new boss|to whom does {s} report
invented_name # {v} teaches my piano class|I take piano lessons with {v} # who teaches {s} the piano|with whom does {s} take piano lessons
invented_name # my doctor is {v}|I always see {v} when I am ill # who is {p} doctor|whom does {s} see when ill
invented_name # {v} is looking after my plants|I gave my plants to {v} # who looks after {p} plants|to whom did {s} give the plants
invented_name # I share a flat with {v}|{v} moved in with me # with whom does {s} share a flat|who moved in with {s}
food # I am allergic to {v}|{v} makes me ill # what is {s} allergic to|what makes {s} ill
food # I bring {v} to the picnic|put me down for {v} at the picnic # what does {s} bring to the picnic
drink # get me {v} from the shop, will you|I am out of {v} # what does {s} want from the shop|what is {s} out of
gift # I got {v} for my birthday|they gave me {v} for my birthday # what did {s} get for the birthday
job # my sister became {v}|my sister works as {v} # what did {p} sister become|what does {p} sister work as
book # I cannot put down {v}|I am halfway through {v} # which book can {s} not put down|which book is {s} halfway through
clothes # I will be wearing {v}, so you can spot me|look out for {v}, that is me # what will {s} be wearing|by what can one spot {s}
illness # I am off work with {v}|the doctor says I have {v} # with what is {s} off work|what does {s} have, says the doctor
mail # write to me at {v}|my mail is {v} # to which address does one write to {s}|what is {p} mail address
identifier # my wallet address is {v}|send it to my wallet, {v} # what is {p} wallet address|to which wallet does one send it for {s}
path # my notes are in {v}|I saved my notes under {v} # where are {p} notes|under which path did {s} save the notes
clock # I'm on at {v} with my talk|they put my talk at {v} # at what time does {s} give the talk|when is {p} talk
clock # our match is at {v}, be there|kickoff is {v} for us # when is {p} match|at what time does {s} play
invented_name # ask for {v} at the desk, that's the name I gave|I signed us in as {v} # under which name did {s} sign in|for whom does one ask at the desk, according to {s}
invented_word # I put the room down as {v}|the room is taken, it says {v} on the door # under which name did {s} take the room|what does it say on the door of {p} room
price # got {v} for the car|a student took the car off me for {v} # how much did {s} get for the car|for how much did {s} sell the car
small # the old bike went for {v}|somebody gave me {v} for my bike # what did {s} sell the bike for|what was {s} given for the bike
code # order {v} is mine|the shop has my order as {v} # what is the number of {p} order|under what does the shop have {p} order
number # I opened case {v} for my laptop|case {v} is about my laptop # which case did {s} open|what is the number of the case for {p} laptop
number # it's {v} to get into our cellar|our cellar? {v} does it # what gets one into {p} cellar|which number is it for {p} cellar
small # ring me on line {v}, I am at the counter|at the counter I pick up {v} # on which line does one ring {s}|what does {s} pick up at the counter
place # they want me in {v} for the training|off to {v}, there is a training # where does {s} go for the training|in which place is {p} training
first # it's a boy, my brother calls him {v}|my brother's son is {v} # what is the son of {p} brother called|how did {p} brother call the boy
secret # guests here use {v} to get online|online in my flat you get with {v} # what do {p} guests use to get online|how does one get online in {p} flat
plan # for the weekend I intend {v}|this weekend I want {v} # what does {s} intend for the weekend|what does {s} want this weekend
""".strip().splitlines())]

# the same of anything, {n} and {w} two nouns, {b} {z} {d} forms of a verb: only the noun {n} is in what is said and in what is asked
CHAT_FORMS = [row for row in (tuple(part.strip() for part in line.split("#")) for line in """
my {n} is {v}|{n} here: {v}|the {n} at my {w} is {v}|{v} is my {n}|my {n} says {v} # what is {p} {n}|what is the {n} of {s}|{p} {n}|which {n} does {s} have
{n} is sorted, it is {v}|they set my {n} to {v}|{v} for the {n}, they tell me|the {n} comes to {v}, fine with me # what was {p} {n} set to|what does {p} {n} come to|what is it with {p} {n}
someone {d} the {n}, {v} it was|I {b} the {n} and it said {v}|{v} is what I got for the {n}|the {n} is gone for {v} # what did {s} get for the {n}|for what did {s} {b} the {n}|what came of {p} {n}
my {w} {d} the {n} {v}|we have {d} the {n} {v}|it's done, my {w} and I {b} the {n} {v} # what did {p} {w} {b} the {n}|how did {p} {w} {b} the {n}|what did {s} {b} the {n}
the {n} goes by {v}|ask for {v} if it is about the {n}|I put the {n} down as {v}|the {n} is {d}, look for {v} # by what does {p} {n} go|under what did {s} put down the {n}|for what does one ask about {p} {n}
the {n} will be in {v}|they want me in {v} for the {n}|{n} is over in {v}, I must go|{v} has the {n}, so I travel # where is {p} {n}|where does {s} go for the {n}|in which place is {p} {n} # place
the {n} takes me to {v}|they get me over to {v} for the {n}|we are all being moved to {v} for the {n}|my {w} wants to have me in {v} for the {n}|we take the {n} to {v} this time # where is {p} {n}|where does the {n} take {s}|in what place is {p} {n}|to which town does {s} go for the {n} # place
my {w} {d} {v}|done: my {w} {d} {v}|it is settled, my {w} and {v} # which {n} did {p} {w} {b}|what {n} was {d} by {p} {w}|what did {p} {w} {b} as {n}
{n} stuff: {v}, if you come by|{n}? {v}|{n} at mine: {v}|{v} gets you the {n} at mine # what is the {n} {w} at {p} place|which {n} {w} does {s} have|what is the {w} of {p} {n}
all set, my {w} has {v}|{v} for my {w}, at last|we found something for my {w}: {v} # what is the {n} of {p} {w}|which {n} does {p} {w} have|what {n} did they give {p} {w}
the {w} has come, my {n} said yes to {v}|my {n} went for {v}, what a {w}|my {n} picked {v}, and that is the {w} # what did {p} {n} {b} the {w}|which {w} did {p} {n} choose|what did {p} {n} go for
you get my {w} on {v}|my {w} wants {v}, or it won't {b}|for the {w} it takes {v} # on what does one get {p} {w}|what does {p} {w} want|what does it take for {p} {w}
the {n} starts {v}|my {n} was moved to {v}|{n} at {v} for me|it looks like {v} for my {n} # when is {p} {n}|at what time is the {n} of {s}|to when was {p} {n} moved # clock
a {m}! my {w} took {v}|it is a {m} this time and my {w} took {v}|the {m} is there, my {w} voted {v}|great, a {m}, {v} is what my {w} said # what did {p} {w} call the {n}|what {n} did {p} {w} take|how did {p} {w} {b} the {n}|what did {p} {w} decide on for the {n}
{n} {d}, say {v} at the door|the {n} is {d}, mention {v}|the {n} has been {d}, just say {v}|I {d} the {n}, tell them {v} # under what is {p} {n} {d}|what should one say for {p} {n}|which word did {s} {b} the {n} under|what does one mention for {p} {n}
seems I {b} at {v}|I guess I {b} around {v}|I'd say {v} is when I {b}|I should {b} at {v} or so # when does {p} {n} {b}|at what time does {p} {n} {b}|when will the {n} of {s} be|at which hour is {p} {n} # clock
{n} is in {v} again, I will be there|the {n}? in {v}, and I go|{n} in {v} for once, lucky me # in which town is {p} {n}|where is the {n} of {s} held|in what town will {p} {n} be # place
{w} at mine: {v}, come over any time|the {w} here is {v}, in case you need it|{w} of the house: {v} # what is the {w} {n} at {p} place|which {w} {n} does {s} use|what {w} {n} is there at {p} house
""".strip().splitlines())]

SMALL_TALK = split(
    "good morning all|anyone up for a walk later?|so sleepy|who left the window open|great, thanks!|sounds good|no way|I agree|what a day|see you all later|haha|"
    "let me check|hang on a second|that was loud|who is in charge of the music?|I will be there soon|sorry, wrong chat|never mind|can somebody feed the birds?|"
    "it is raining again here|that film was too long|I need a break|does anyone have a spare charger?|done with work at last|not again|same here|well done!|"
    "the printer is out of paper|we should meet more often|what did I miss?|I have no idea|fine by me|you must be joking|back in a minute|ok|sure|hello?")
