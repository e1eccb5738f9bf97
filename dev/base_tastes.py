"""Sentences of the small synthetic base about what one likes: {n} is the category, {v} the value, {old} the one before it, {s} who likes it."""
from dev.base_words import split

# first-person tastes: category and the pool of its values
TASTES = [tuple(part.split(":")) for part in split(
    "drink:drink|soft drink:drink|fruit:fruit|food:food|dish:food|breakfast:food|snack:food|dessert:food|comfort food:food|colour:colour|wall colour:colour|"
    "music:music|style of music:music|sport:sport|winter sport:sport|animal:animal|pet:animal|plant:plant|herb:plant|flower:plant|tree:plant|instrument:instrument|"
    "game:game|party game:game|gem:gem|stone:gem|metal:metal|language:language|book:book|novel:invented_title|poem:invented_title|film:invented_title|"
    "song:invented_title|opera:invented_title|series:invented_title|vehicle:vehicle|way to travel:vehicle|tool:tool|garment:clothes|outfit:clothes|weather:weather|"
    "hobby:activity|pastime:activity|subject:topic|topic:topic|holiday spot:place|weekend trip:place|beach:invented_place|restaurant:invented_place|pub:invented_place|"
    "bookshop:invented_place|writer:invented_name|painter:invented_name|singer:invented_name|comedian:invented_name|designer:invented_name|team:invented_word|"
    "brand:invented_word|perfume:invented_word|soap:invented_word|font:invented_word|spice:invented_word|pasta:invented_word|biscuit:invented_word|"
    "dance:invented_word|material:material|fabric:material|room:room|number:small|shape:shape|wake-up time:clock|bedtime:clock|lunch hour:clock|hour for a walk:clock|gift:gift|dream job:job")]

TASTE_LINES = split(
    "my favourite {n} is {v}|I love {v} more than any other {n}|when it comes to a {n}, I am all for {v}|my go-to {n} is {v}|of every {n} I know, {v} is the best|"
    "as a {n}, I would always take {v}|I can't get enough of {v}, the best {n} there is|{v} is my number one {n}|nothing beats {v} as a {n}|I favour {v} as {n}|"
    "for me the {n} has to be {v}|{v} is the {n} for me|I fancy {v} if you ask me for a {n}|my {n} of the heart: {v}|I always go for {v} when I need a {n}|"
    "if I had to pick a {n}, it would be {v}|I am very fond of {v} as a {n}|I swear by {v}, that is my {n}|favourite {n}: {v}|preferred {n} - {v}|"
    "there is no better {n} than {v}, I think|I adore {v}, my best-loved {n}|{n}? {v}, every time|{v} wins for me among anything one may call {n}|"
    "{v} has always been the {n} I like|give me {v} and no other {n}|any {n} will do as long as it is {v}|I would swap every {n} for {v}|{v} ranks first with me as a {n}|"
    "in matters of {n} nothing but {v} will do|I have loved {v} as a {n} for years|the one {n} I never tire of is {v}|I rate {v} above each {n} there is|"
    "a {n}? For me that can only be {v}|what I like in a {n} is {v}|{v} is hard to beat as a {n}|put me down for {v} when it is about a {n}|my heart beats for {v} ({n})|"
    "{v} {z} me like no other {n}|{v} {z} me, whatever the {n}|what {z} me as a {n} is {v}|I {b} {v} when I need a {n}|I {b} no {n} but {v}|{v} {z} me more than any {n}|among all that is {n}, {v} {z} me|"
    "I'd call {v} the finest {n}|I'll take {v} whenever a {n} is needed|I've always been one for {v} where a {n} is concerned|don't offer me any {n} but {v}|you'll never see me with a {n} other than {v}|"
    "there's one {n} for me: {v}|name a {n}? I'd name {v}|I'd trade every {n} for {v}|tell me to choose a {n} and it will be {v}|I couldn't live without {v}, my {n}|I'm all about {v} if it is a {n} you mean|"
    "you'd make me happy with {v}, the {n}|"
    "hand me {v} if there is a {n} to be had|bring me {v} and I will not ask for another {n}|{v} makes my day as a {n}|I ended up with {v} as my {n}|I'd choose {v} ahead of each {n}|I'd grab {v} before each other {n}|vote {v} for {n}, I do|I rank {v} first as a {n}|count me in for {v} as a {n}|on {n}: {v}, please|{v}. That is my answer to anyone who asks about a {n}|somebody said {n} and I thought of {v}|the {n} list is headed by {v}, if you want mine|asked about a {n}, I name {v}|they wanted to know my {n}: I said {v}|should you look for a {n} for me, take {v}|with a {n} I stick to {v}|I picked {v} as {n}, as I tend to|I want {v} and nothing else for a {n}|I'd go far for {v}, such a {n}|{v} tops the {n} list of mine|out of all that passes for a {n}, give me {v}|I settle on {v} whenever the {n} is up to me|my weakness as to a {n}: {v}|call me simple, but {v} is {n} enough for me|quiz me on a {n} and you hear {v}|in the {n} department {v} leads|"
    "I'd back {v} against whatever else is called a {n}|I'd vote {v}, should there be a vote on a {n}|hear me shout {v} when somebody wants a {n}|when they ask about a {n} I reply {v}|they get {v} from me for a {n}|I'll say {v} to everyone who needs a {n}|I'd take {v} before whatever {n} you own|I'd keep {v} and part with the other {n}s|say what you will of a {n}, {v} does it for me|for a {n}, {v} does me good|{v} {z} me over, as a {n}|in the end {v} {z} me, {n} or not|where a {n} is due, {v} suits me|the first {n} for me has to be called {v}|over the years {v} turned into my {n}|my {n} has turned out to be {v}|the {n} of my choice has come to be {v}|at the top of my {n} list stands {v}|on top for me as a {n}: {v}|{v} stands at the top of what is a {n}|none but {v} is top as a {n}")

# the same, told of somebody else
TASTE_LINES_OF = split(
    "{s} likes {v} best as a {n}|{p} favourite {n} is {v}|{s} says that no {n} beats {v}|as a {n}, {s} would take {v}|for {s} the {n} has to be {v}|{s} swears by {v}, the {n}|"
    "{v} is the {n} that {s} likes|{s}, asked for a {n}, named {v}|if {s} needs a {n}, it is {v}|{s} is fond of {v} as a {n}|the {n} of {s}: {v}|when {s} picks a {n}, {v} it is|"
    "{x} heard that {s} wants {v} as a {n}|{s} let me know that {v} is the {n} to get|the {n} {s} loves is {v}|{v} {z} {s} more than any {n}|{s} {z} {v} as a {n}|"
    "according to {s}, {v} is the finest {n}|{s} mentioned that as a {n} it is {v}|it turns out that {p} {n} is {v}|{s} talks of {v} as the best {n}|with {s} the {n} is {v}|"
    "I asked {s} about the {n} and heard {v}|{s} confessed a weakness for {v}, the {n}|give {s} {v} and no other {n}|{v} as a {n}, that is {s}|"
    "question {s} about a {n} and the answer is {v}|invite {s} to name a {n}: {v}|{s} names {v} when a {n} is wanted|press {s} for a {n} and you get {v}|{s} ranks {v} first as a {n}|{s} sticks to {v} as a {n}|{s} votes {v} for {n}|{v} makes the day of {s} as a {n}|{s} ended up with {v} as the {n}|{s} settles on {v} when it comes to a {n}|{p} weakness as to a {n}: {v}|{v} heads {p} {n} list|bring {s} {v} if a {n} is needed|{s} picks {v} for the {n}|{v}, says {s} of the {n}|for a {n}, hand {s} {v}")

# what a remark may begin with
OPENERS = split(
    "Recently|Nowadays|Honestly,|Currently|Presently|Frankly,|Actually|Finally|Naturally|Surely|Clearly|Admittedly|Truthfully,|Today|Somehow|Besides,|Anyway,|Luckily|Evidently|Strangely|"
    "Gradually|Slowly|Eventually|Probably|Still,|Well,|So|Yes,|Oh,|Listen:|Look,|By now|At present|Of late|All in all|In truth|As ever|Quite simply,|Personally|Basically,|Obviously,|"
    "Seriously,|For now|This year|Since spring|Right now|Mostly|Usually|Sometimes I think|Officially|Privately|Between us,|No joke:|Fun fact:|Again:|Apparently|Happily|Sadly|Oddly enough|"
    "To be honest,|In my house|At heart|Secretly|Hands down,|Simply put,|For a while|At last|Undoubtedly|Certainly|Definitely|Mind you,|Believe me,|True,|Once more:|Here it is:|"
    "Meanwhile|Meanwhile,|Nowadays,|Today,|Since May|Since Friday|This month|For some time|Deep down|More and more|Without question|In general|Generally|Normally|As usual|Naturally,|Well well,|Ok,|Ok so|Right,|Hm,|Ah,|And|But|Then again,|Yep,|Guess what,|Perhaps|Maybe|Of course|Once again|Increasingly|On balance|Ever since|For years|Until further notice|Only|Just")

TASTES_ANEW = split(
    "I changed my mind: {}|these days {}|I used to think otherwise, but {}|not {old} any more: {}|forget {old}, {}|lately I noticed that {}|{}, no longer {old}|"
    "it took me years, but {}|{} after all|I have gone off {old}; {}|my taste has changed: {}|since last week {}|{}|{}|{}|now {}|{} nowadays|goodbye {old}, {}|"
    "{}, and {old} is history|I gave up {old}, {}|{}, I am done with {old}|{}; so much for {old}|enough of {old}, {}|{}, which has replaced {old}|{} (it was {old})|"
    "{old} was yesterday, {}|it used to be {old}, today {}|I have had my fill of {old}: {}|{}, rather than {old}|{}. I got over {old}|{}, {old} bores me now|"
    "first it was {old}, but {}|I said {old} once, that is over, {}|{}; {old} had its time|{}, I quit {old}|strike {old}: {}|{}; I left {old} behind|"
    "scrap {old}, {}|drop {old}: {}|ditch {old}; {}|cross out {old}, {}|leave out {old}, {}|skip {old}, {}|write off {old}: {}|enough with {old}, {}|{}, I let {old} fall|{}, having dropped {old}")

# the change is the sentence itself
TASTES_TURNED = split(
    "I have switched from {old} to {v} as my {n}|{v} has replaced {old} as my {n}|I traded {old} for {v}, my new {n}|as a {n}, {v} beats {old} now|my {n} is no longer {old} but {v}|"
    "instead of {old} I now take {v} as a {n}|from {old} I moved on to {v}, a better {n}|the {n} used to be {old}, it is {v} these days|{old} is no longer my {n}, {v} is|"
    "my {n} went from {old} to {v}|no more {old}: the {n} for me is {v}|I prefer {v} to {old} as a {n} nowadays|I swapped my {n}: {old} for {v}|about that {n}: not {old}, {v}|"
    "my {n} is {v} now, {old} has had its day|with the {n} it is {v} from now on and {old} is gone|{v} it is, the {n} I like; {old} is no good|{old} or {v} as {n}? {v}, these days|"
    "I would once have said {old}, but the {n} for me is {v}|once my {n} was {old}. Now {v}|"
    "my {n} used to be {old}, these days it is {v}|as a {n}, {old} is out, {v} is in|{v} is in as my {n}, {old} is out of it|{v} has pushed {old} aside as my {n}|for a {n} I dropped {old} and picked up {v}|{v} these days; my {n} used to be {old}|it was {old} for the {n}, until {v} came along|until {v} came along, my {n} was {old}|formerly {old}, nowadays {v}: that is my {n}|nowadays {v}, formerly {old}: that is my {n}|I took {v} over {old} as {n} in the end|my {n}, {old} for so long, is {v}|the {n} title passes from {old} to {v}|{old} lost the {n} crown to {v}|{v} took the {n} crown from {old}|where I said {old} for the {n}, read {v}|read {v} where I said {old} for the {n}|I am over {old}, my {n} is now {v}|after {old}, it is {v} that I call my {n}|"
    "scrap {old}, my top {n} is called {v}|drop {old}: the {n} of my life has turned into {v}|cross out {old}, the first {n} on my list has come to be {v}|skip {old}, my real {n} turned out to be {v}|leave out {old}, it is {v} that became my {n}|{v} is the {n} I turn to of late; I let {old} fall|no {old} now, the {n} that counts has come to be {v}|bury {old}, my one and only {n} got to be {v}|the {n} has been {v} since I buried {old}|I let {old} fall and {v} became my {n}")

# ... or put together: what is over, and what has come
TASTES_OVER = split(
    "I have seen enough of {old}|I gave {old} up|{old} no longer counts|{old} can go|I let go of {old}|{old} has lost|I moved away from {old}|no {old} for me any more|{old} must step back|"
    "I was wrong about {old}|away with {old}|{old} belongs to the past|I turned my back on {old}|I stopped with {old}|{old} I can do without|I parted with {old}|never mind {old}|"
    "{old} had a good run|{old} is no longer for me|I have finished with {old}|so long, {old}|I don't care for {old} any longer|leave {old} aside|{old} was a phase|I outgrew {old}")
TASTES_COME = split(
    "{v} is the {n} I take|it is {v} for the {n}|the {n} is {v}|{v} has won as {n}|my {n} has turned into {v}|in came {v} as my {n}|{v} took over as {n}|I went over to {v} for the {n}|"
    "these days {v} is what I want as a {n}|I have come round to {v} as {n}|as for the {n}, {v} it is|recently {v} has grown on me as a {n}|the {n} that counts is {v}|"
    "{v} is my {n} from today|the {n} I reach for is {v}|a {n} now means {v}|{v} {z} me as a {n} of late|I {b} {v} as a {n} now|"
    "nowadays {v} is the {n} I turn to|since May {v} is my {n}|meanwhile {v} leads as a {n}|currently {v} is the {n} I want|by now {v} tops the {n} list|today {v} is where I end up for a {n}|of late {v} is the {n} I ask for")
TASTES_JOINED = split("{o}, {c}|{o}; {c}|{o} and {c}|{o}. {c}|{o} - {c}|{o}: {c}|{c}, {o}|{c}; {o}|{c} and {o}|{c}. {o}|{c} - {o}|{c}, since {o}|{c}, for {o}|{c} ({o})|{c} because {o}|{o}, so {c}|now that {o}, {c}", "|")

TASTE_ASKS = split(
    "what is my favourite {n}|which {n} is my favourite|which {n} would I pick|what {n} do I like best|which {n} do I love most|what {n} would I go for|"
    "what is my go-to {n}|which {n} do I favour|my favourite {n}|what's my preferred {n}|what would I take as a {n}|which {n} is the best for me|"
    "if I could have any {n}, which would it be|remind me which {n} I like most|what did I say about my favourite {n}|which {n} did I say I like best|"
    "which {n} wins with me|what {n} could I not do without|which {n} is it for me|what would be my choice of {n}|do you recall the {n} that I like|what {n} did I mention as mine|"
    "which {n} should one offer me|what {n} makes me happiest|my choice of {n}|of all, which {n} do I rate highest|say which {n} I would choose|what {n} is dearest to me|"
    "~my favourite {n} is|~the {n} I like best is|what {n} am I most fond of|do you know which {n} I prefer|which {n} suits me best|name the {n} I love|"
    "which {n} stands first with me|which {n} do I rate highest|which {n} comes first with me|what {n} do I rank above the others|which {n} heads my list|what is the {n} of my heart|which {n} is my first choice|what's my pick for a {n}|which {n} do I like more than the rest|what {n} do I swear by|what {n} do I stick to|which {n} should you bring me|my preferred {n}, what is it|what {n} would you hand me|which {n} wins my vote|what is my best-loved {n}|which {n} have I settled on|to which {n} am I attached|what {n} do I value most|which {n} is closest to my heart|"
    "what tops my {n} list|which one tops my list as a {n}|which {n} is at the top for me|my number one when it comes to a {n}|which {n} did I put at number one|who or what is number one with me for a {n}|my top choice of {n}|the top {n} for me|what have I as top {n}|which {n} am I keenest on|which {n} am I happiest with|what {n} am I maddest about|which {n} delights me most|of which {n} am I fond|which {n} takes first place with me|if I may choose a {n}, which is it to be|a {n} for me, which should it be|if I had one {n} to keep, what would it be|can you name the {n} that I prefer|are you able to say which {n} I chose|say what {n} I like more than any|which {n} do I turn to|what {n} do I reach for|which {n} did I tell you I love|my first {n}, what is it called|~at the top of my {n} list stands|~my number one as a {n} is")

TASTE_ASKS_OF = split(
    "what is {p} favourite {n}|which {n} does {s} like best|what {n} would {s} pick|{p} favourite {n}|which {n} does {s} love most|what's {p} preferred {n}|"
    "which {n} would {s} go for|what is the favourite {n} of {s}|~{p} favourite {n} is|what {n} is {s} most fond of|what is {p} go-to {n}|which {n} does {s} favour|"
    "which {n} is {p} pick|what {n} has {s} picked|which {n} is the best for {s}|the {n} of {s}|which {n} should one offer {s}|what did {s} name as {n}|"
    "what is {p} top {n}|which {n} does {s} rate highest|what is {p} number one {n}|which {n} comes first with {s}|what {n} does {s} rank above the others|which {n} heads {p} list|what is {p} first choice of {n}|what's {p} pick for a {n}|which {n} does {s} like more than the rest|what {n} does {s} swear by|what {n} does {s} stick to|which {n} should you bring {s}|{p} preferred {n}, what is it|which {n} wins {p} vote|what is {p} best-loved {n}|which {n} has {s} settled on|what {n} does {s} value most|which {n} is closest to the heart of {s}|~{p} top {n} is|of all, which {n} does {s} prefer|"
    "what tops {p} {n} list|which {n} is at the top for {s}|which {n} did {s} put at number one|{p} top choice of {n}|the top {n} of {s}|which {n} is {s} keenest on|which {n} is {s} happiest with|which {n} takes first place with {s}|which {n} has {s} chosen|what {n} did {s} choose|{p} choice of {n}|which {n} is the choice of {s}|what has {s} chosen as {n}|can you name the {n} that {s} prefers|which {n} does {s} turn to")
