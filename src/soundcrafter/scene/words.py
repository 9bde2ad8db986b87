"""What the prompt parser knows about English words: the lists, and the forms of the verbs.

The lists hold the words that occur in descriptions of sounds, not all of English. To teach the
parser a word, add it to the list it belongs to.
"""

DETERMINERS = frozenset(
    """a an the this that these those some any each every another other both all several many much
    few multiple various numerous different no his her its their my our your one two three four five
    six seven eight nine ten more most lots""".split()
)
PRONOUNS = frozenset(
    """he she it they we you i who someone somebody something everyone everybody everything anyone
    anybody nothing nobody others another one""".split()
)
POSSESSIVES = frozenset("his her its their".split())
PREPOSITIONS = frozenset(
    """about above across against along alongside amid amidst among amongst around at behind below
    beneath beside between by despite down during for from in inside into like near of off on onto
    out outside over past through throughout to toward towards under underneath up upon via with
    within without""".split()
)
CONJUNCTIONS = frozenset("because but if nor or than".split())
# Of the above, those that also complete a verb: "rolling in", "revving up".
PARTICLES = frozenset(
    "about across along around away back by down forth in off on out over past through to up".split()
)
BE = frozenset("is are was were be been being".split())
AUXILIARIES = BE | frozenset(
    """am has have had do does did gets get got can could will would may might must should
    isn't aren't doesn't don't can't won't""".split()
)
ADVERBS = frozenset(
    """again alone also almost alike altogether always away back backwards barely close closer down
    downstream else even far farther fast faster forward forwards further hard harder here however
    just later maybe nearby not now off often once outdoors outside overhead quite rather right so
    sometimes somewhere soon still there together too twice up upstairs very well yet""".split()
)
ADJECTIVES = frozenset(
    """adult aged alive animated audible asleep background big bigger blunt brief bright broken busy
    calm clear close cold constant continual continuous cool crisp dark deep deeper delicate dense
    digital dim distant dry dull electric elderly electronic empty entire excited extreme faint fake
    far fast faster female fierce fine firm flat foreground foreign frantic fresh full gentle giant
    gruff hard harsh heavy heavier high higher high-pitched hollow hot huge idle indistinct intense
    intermittent large larger later light little live long longer loud louder low lower low-pitched
    main male massive mechanical medium metallic mid mid-size middle mild moderate more muffled
    multiple muted narrow nearby new nice odd old older open outdoor pitched plain pneumatic present
    quick quicker quiet quieter random rapid raspy raw repetitive rhythmic rough round rusty same
    second shallow sharp short shrill silent similar simple single slick slight slow slower small
    smaller smooth soft softer solid spooky squeaky steady strange strong stronger sudden sweet tall
    thick thin third tight tiny unknown upset usual vast violent vocal warm weak weird wet white
    whole wide wild wooden young younger""".split()
)
PEOPLE = frozenset(
    """adult adults announcer audience babies baby boy boys child children choir commentator couple
    crowd crowds driver family father female females friend friends gentleman girl girls group guy
    guys human humans husband individual individuals infant infants kid kids lady ladies lumberjack
    male males man men mother narrator newborn officer people person persons player reporter singer
    soldier soldiers speaker student students teen teenager toddler toddlers woman women worker
    workers youth youths someone somebody another others everyone he she they""".split()
)
ANIMALS = frozenset(
    """animal animals bee bees bird birds bug bugs bull bullfrog canine cat cats cattle chick chicken
    chickens chicks cicada cicadas cow cows coyote cricket crickets crow crows dog dogs donkey dove
    doves duck ducks duckling ducklings eagle elephant fly flies fowl frog frogs geese goat goats
    goose gull gulls hen hens hog hogs horse horses hound insect insects kitten kittens lamb lambs
    lion livestock mammal monkey mosquito mosquitoes owl owls parrot pig piglet piglets pigeon
    pigeons pigs pup puppies puppy rat raven robin rodent rooster roosters seagull seagulls sheep
    snake songbird songbirds swine toad toads turkey whale whales wolf wolves woodpecker""".split()
)
MACHINES = frozenset(
    """aircraft airplane airplanes ambulance appliance automobile bike boat boats bus car cars
    chainsaw clock clocks computer drill fan firetruck hammer helicopter helicopters jet keyboard
    lawnmower locomotive machine machines motorbike motorboat motorcycle motorcycles plane planes
    printer propeller saw sander ship speedboat tractor train trains truck trucks typewriter van
    vehicle vehicles""".split()
)
# Nouns that are heard by themselves, with no verb.
SOUND_NOUNS = frozenset(
    """accordion alarm alarms announcement applause audio bagpipes bass bell bells birdsong breath
    breaths breeze bugle buzzer chainsaw choir chord chords chorus clamor commotion conversation
    conversations crickets dialogue dialtone din discussion drum drumbeat drums effects engine
    engines explosion explosions fanfare feedback fireworks flute footfall footfalls footstep
    footsteps guitar gunfire gunshot gunshots gust gusts hail harmonica harp hoof hoofbeats
    hooves horn horns hubbub laughter lightning lullaby melody monologue motor motors music
    narration noise noises organ percussion piano rain raindrops rainfall saxophone shots siren
    sirens song songs sound sounds speech static surf synthesizer thunder thunderclap
    thunderstorm tick-tock tone tones traffic trumpet tune twang ukulele vibration vibrations
    violin vocals voice voices waterfall wave waves wind winds words""".split()
)
# Nouns for how something sounds: "speaking with an accent".
MANNER_NOUNS = frozenset(
    """accent beat cadence echo effort emphasis emotion enthusiasm excitement force frequency
    inflection intensity intervals lisp pace pattern pitch rate reverb rhythm speed tone tones
    vibration vibrations voice voices volume words""".split()
)
# Nouns that say nothing of the source.
NOISES = frozenset("noise noises sound sounds vibration vibrations".split())
# What one speaks over and into: "over a loudspeaker" is no second sound.
DEVICES = frozenset(
    """amplifier intercom loudspeaker loudspeakers megaphone mic microphone microphones pa phone
    radio speaker speakers telephone television tv walkie-talkie""".split()
)
# Verbs that name a sound. Their forms also serve as nouns: "a loud bang".
SOUND_VERBS = frozenset(
    """applaud baa babble bang bump bark bawl bay bellow belch beep blare blast bleat bleep blow bong boom
    bounce breathe bubble burble burp burst buzz cackle call caw chant chat chatter cheep cheer chew
    chime chirp chop chuckle chug clack clang clank clap clatter click clip-clop clink clip clomp
    clop cluck clunk communicate converse coo cough crack crackle crash creak crinkle croak crow
    crumble crumple crunch cry ding dribble drill drip drone drum echo erupt exclaim exhale explode
    fart fire flap flow flush flutter fry fuss gallop gargle gasp giggle gobble grate grind groan
    growl grumble grunt gulp gurgle gush hammer hiccup hiss holler honk hoot howl hum idle inhale
    jangle jingle knock laugh meow mew moan moo mumble murmur mutter narrate neigh oink patter peck
    peep ping plop pop pound pour preach purr quack quake rap rasp rattle recite rev ribbit ring rip
    roar rub rumble rush rustle sand saw scrape scratch scrap scream screech scrub scrunch scuff sew
    shatter shoot shout shriek shuffle sigh sing sizzle skid slam slap slosh slurp smack smash snap
    snarl sneeze snicker sniff sniffle snip snore snort sob speak spit splash splatter splutter spray
    sputter squawk squeak squeal squish stomp stutter swish swoosh talk tap tear thud thump
    thunder tick ticktock tinkle toll toot trickle trill trot tweet twitter type vibrate vocalize
    wail weep wheeze whimper whine whinny whir whirr whirl whish whisper whistle whiz whoosh whoop
    woof yap yell yelp yip yodel zap zip zoom""".split()
)
# Verbs of what else the sources of sounds do.
OTHER_VERBS = frozenset(
    """accelerate accompany adjust advance agitate aim amplify announce answer appear approach argue
    arrive ask attempt babysit bat beat become beg begin bend bite blend boil brake break bring brush
    build burn bustle carry catch change charge chase chip churn circle clean clear close cock
    collide come comment continue converge cook count crank cruise curse cut cycle dance decelerate
    deliver depart dial die dig discuss disturb drag drain draw drift drink drive drop dump ease eat
    emit end enter excite expel fade fall fan feed fight file fill filter fizz flip float fluctuate
    flick fly follow gather get give glide go growl grow guide handle happen hear help hit hold hop
    hover huff hurry imitate impact increase instruct interact interrupt joke jump keep kick kiss
    land lap laminate lash launch lean leave let lift light listen load lock loom lower make march
    mew mix mow move need occur open operate pack paddle page paint pan pant park pass pat pause peel
    perform pick plane play polish power practice press print proceed propel puff pull pulse pump
    punch push put race raise raid rain ramble ratchet reach read record reel release remain repeat
    reply respond resonate retract reverse ride rise rock roll rotate row run sail say scatter
    scamper screw seal serve set shake shift shoo shut slide slice slip slow smooth snuffle speed
    spin split sprinkle squeeze stand start stay steam step stir stop storm stream stretch strike
    strum struggle suck surge swallow swarm swat sway sweep swell swing swirl switch take teach
    tell thrash throttle throw thrum toss tow trample travel trigger try tumble tune turn type use
    utter vacuum wait wake walk warm warn wash watch wind wipe work wrap write yawn""".split()
)
# Verbs whose base form is never a noun.
NEVER_NOUNS = frozenset(
    """accelerate applaud become begin communicate continue converse decelerate happen occur sing
    speak vibrate vocalize""".split()
)
IRREGULAR = {  # form: base
    form: forms.split()[0]
    for forms in (
        "beat beaten",
        "become became",
        "begin began begun",
        "blow blew blown",
        "break broke broken",
        "bring brought",
        "come came",
        "drive drove driven",
        "eat ate eaten",
        "fall fell fallen",
        "fly flew flown",
        "give gave given",
        "go went gone",
        "hear heard",
        "keep kept",
        "make made",
        "ride rode ridden",
        "ring rang rung",
        "run ran",
        "saw sawn",
        "say said",
        "sew sewn",
        "shake shook shaken",
        "shoot shot",
        "shut shut",
        "sing sang sung",
        "speak spoke spoken",
        "spin spun",
        "strike struck",
        "take took taken",
        "tear tore torn",
        "throw threw thrown",
        "wind wound",
        "write wrote written",
    )
    for form in forms.split()[1:]
}
# Ends in -ing and is no verb.
NOT_ING = frozenset(
    """anything bring building ceiling clothing during evening everything king lightning morning
    nothing ping ring sing sling something spring sting string swing thing wing""".split()
)
CROWDS = frozenset("audience choir crowd group police".split())
PLURALS = frozenset("people men women children cattle geese mice police sheep feet others".split())
# Two words that name one thing, or one manner, when joined by "and".
PAIRS = frozenset(
    frozenset(pair.split())
    for pair in (
        "back forth",
        "black white",
        "brush bristle",
        "cup saucer",
        "cups saucers",
        "ebb flow",
        "fish chips",
        "fork knife",
        "forks knives",
        "hammer nail",
        "hammer nails",
        "here there",
        "horse buggy",
        "horse carriage",
        "horse cart",
        "horse wagon",
        "hustle bustle",
        "in out",
        "left right",
        "lightning thunder",
        "nuts bolts",
        "off on",
        "pans pots",
        "pen paper",
        "pepper salt",
        "plates silverware",
        "rock roll",
        "stop start",
        "to fro",
        "up down",
    )
)
NUMBERS = {
    word: number
    for number, word in enumerate("two three four five six seven eight nine ten".split(), start=2)
}


def _inflected(base: str) -> tuple[set[str], set[str]]:
    """The -s forms and the -ed forms of a regular verb; a doubled and a plain consonant both."""
    if base.endswith(("s", "x", "z", "ch", "sh")):
        third = {base + "es"}
    elif base.endswith("y") and base[-2] not in "aeiou":
        return {base[:-1] + "ies"}, {base[:-1] + "ied"}
    else:
        third = {base + "s"}
    return third, {base + "d"} if base.endswith("e") else {base + "ed", base + base[-1] + "ed"}


VERBS = SOUND_VERBS | OTHER_VERBS
THIRD_PERSON: dict[str, str] = {"goes": "go"}
PAST: dict[str, str] = dict(IRREGULAR)
for _base in sorted(VERBS):
    _third, _past = _inflected(_base)
    THIRD_PERSON.update(dict.fromkeys(_third, _base))
    PAST.update(dict.fromkeys(_past, _base))
del THIRD_PERSON["leaves"]  # of trees


def base_of(word: str) -> str | None:
    """The base form of a known verb in any form; None for other words."""
    if word in VERBS:
        return word
    if word in THIRD_PERSON or word in PAST:
        return THIRD_PERSON.get(word) or PAST[word]
    if word.endswith("ing"):
        stem = word[:-3]
        found = (stem, stem + "e", stem[:-1] if stem[-1:] == stem[-2:-1] else "")
        return next((base for base in found if base in VERBS), None)
    return None


def names_a_sound(word: str) -> bool:
    """Whether a noun, or a form of a verb used as one, is heard by itself."""
    return word in SOUND_NOUNS or base_of(word) in SOUND_VERBS
