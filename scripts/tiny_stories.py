"""Writes the children's stories that the small model in `gpt2_from_scratch/tiny/` learns from. No text from elsewhere.

A story is a template with two kinds of holes. ``[this|that]`` is a free choice, made anew each time it
is met; ``{hero}`` is a fact, drawn once per story, so that names, pronouns, numbers, weather and places agree from the
first sentence to the last. How many are left after giving some away, which colour two paints make and what a cow says
are facts too: there is something to learn that is not spelling.

    python scripts/tiny_stories.py 3        # prints three stories
"""

import itertools
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Who:
    """Somebody with a name. A template may say ``{hero}``, ``{hero.he}``, ``{hero.His}``, ``{hero.kind}``."""

    name: str
    he: str
    him: str
    his: str
    kind: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def He(self) -> str:
        return self.he.capitalize()

    @property
    def His(self) -> str:
        return self.his.capitalize()

    @property
    def hands(self) -> str:
        return "hands" if self.kind in ("girl", "boy") else "paws"


@dataclass(frozen=True)
class Beast:
    """An animal that is met on the way: it has a voice, but no name."""

    one: str
    many: str
    voice: str
    eats: str

    def __str__(self) -> str:
        return self.one

    @property
    def Voice(self) -> str:
        return self.voice.capitalize()


@dataclass(frozen=True)
class Weather:
    """What the sky does, whether one can play outside, and the stories that only this weather can tell."""

    sky: str
    fair: bool
    plots: tuple[str, ...] = ()


SHE, HE = ("she", "her", "her"), ("he", "him", "his")
GIRLS = ["Mia", "Lily", "Anna", "Rosa", "Ella", "Zoe", "Nora", "Ruby", "Ivy", "Maya", "Hana", "Sara", "Tess", "Amy"]
BOYS = ["Tom", "Ben", "Sam", "Max", "Leo", "Finn", "Jack", "Omar", "Theo", "Noah", "Hugo", "Ali", "Dan", "Eli", "Gus"]
CHILDREN = (
    *(Who(name, *SHE, "girl") for name in GIRLS),
    *(Who(name, *HE, "boy") for name in BOYS),
)
FURRY = ["Pip", "Dot", "Moss", "Fern", "Nib", "Bramble", "Hazel", "Clover", "Rusty", "Pepper"]
FURRY_KINDS = ["rabbit", "fox", "bear", "mouse", "squirrel", "hedgehog", "badger", "otter"]
ELDERS = (Who("Mom", *SHE), Who("Grandma", *SHE), Who("Dad", *HE), Who("Grandpa", *HE))
VISITORS = (Who("Aunt May", *SHE), Who("Uncle Joe", *HE))  # they live far away; elders live in the house

COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "white", "brown"]
MIXTURES = (
    ("blue", "yellow", "green"),
    ("red", "yellow", "orange"),
    ("red", "blue", "purple"),
    ("red", "white", "pink"),
)
TOYS = ["ball", "kite", "boat", "car", "drum", "doll", "train", "robot", "bell", "book", "puzzle", "whistle"]
FRAGILE = ["cup", "lamp", "boat", "car", "doll", "train", "robot", "bowl"]
FOODS = ["apples", "plums", "pears", "carrots", "cookies", "nuts", "berries", "cherries", "peaches", "cakes"]
PLACES = ["park", "garden", "forest", "river", "meadow", "beach", "farm", "hill", "pond", "market"]
SPOTS = (
    "under the bed",
    "behind the door",
    "under the table",
    "on the top shelf",
    "behind the curtain",
    "next to the stove",
    "inside the big basket",
    "beside the chair",
    "on the stairs",
)
BEASTS = (
    Beast("duck", "ducks", "quack", "bread"),
    Beast("cow", "cows", "moo", "grass"),
    Beast("sheep", "sheep", "baa", "grass"),
    Beast("cat", "cats", "meow", "fish"),
    Beast("dog", "dogs", "woof", "meat"),
    Beast("pig", "pigs", "oink", "corn"),
    Beast("hen", "hens", "cluck", "corn"),
    Beast("goat", "goats", "maa", "leaves"),
    Beast("goose", "geese", "honk", "grass"),
    Beast("horse", "horses", "neigh", "hay"),
)
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

OPENINGS = (
    """Once upon a time there was a [little|small|kind|clever|brave|quiet|cheerful] {hero.kind} named {hero}. {hero.He}
    lived in a [little|tall|small|yellow|white|warm] house [by the sea|near the forest|on a hill|at the end of the
    road]. One [morning|day] {sky}.""",
    """A {hero.kind} named {hero} and a {friend.kind} named {friend} were [good|best|old] friends. One
    [morning|day|afternoon] {sky}.""",
    """It was [Monday|Tuesday|Friday|Saturday|Sunday], and {sky}. {hero} [woke up early|got out of bed|ate breakfast
    with {elder}|looked out of the window|put on {hero.his} [shoes|coat]].""",
    """There was once a {hero.kind} [named|whose name was] {hero}. {hero.He} loved [to sing|to run|to read|to draw|to
    ask questions|stories|animals|music]. One [day|morning|afternoon] {sky}.""",
)

INDOORS = (
    """{hero} could not find {hero.his} {colour} {toy}. {hero.He} looked {spot}, but it was not there. {hero.He} looked
    {spot2}, but [it was not there either|{hero.he} only found [an old sock|a spoon|a button|some dust]]. ["Where can
    it be?" {hero.he} asked.|{hero} felt sad.|{hero} began to cry.] Then {friend} came. "[Let me help you|I will help
    you look|We will find it together]," said {friend}. They looked {spot3}, and there it was! [{hero} hugged
    {friend}.|"Thank you, {friend}!" said {hero}.|{hero} jumped for joy.] After that {hero} always put the {toy} back
    in its place.""",
    """{hero} had {total} {food}. {friend} had none. "[May I have some, please|Can you share with me|Are those for
    me]?" asked {friend}. {hero} gave {friend} {given}. Now {hero} had {left} left. "[Thank you|You are kind]," said
    {friend}. They sat [at the table|on the floor|by the window] and ate [together|every bite|until nothing was
    left].""",
    """{elder} wanted to bake [a cake|some bread|a pie]. "[Will you help me|Can you help me]?" asked {elder}. "Yes!"
    said {hero}. {hero.He} washed {hero.his} {hero.hands}. {hero.He} broke {n} eggs into a bowl and counted them:
    {counting}. {elder} added [milk|butter|sugar], and {hero} stirred. Soon [the house|the kitchen|everything] smelled
    [sweet|good|warm]. When {friend} came to visit, they shared it. "This is [very |so |][good|tasty]," said
    {friend}.""",
    """{hero} built a [tall|big|high] tower of {colour} blocks. {hero.He} put {n} blocks on top of each other. Then
    {friend} [ran past|jumped|opened the door|sneezed], and the tower fell down. Crash! "[I am sorry|Sorry|Oh no],"
    said {friend}. {hero} was [sad|cross] [at first|for a moment]. Then {hero.he} said, "[We can build it again|Let us
    try again|You can help me]." They worked together, and the new tower was even [taller|bigger|better].""",
    """That night {hero} could not sleep. {hero.He} heard a [strange |little |soft |]noise [behind the door|under the
    bed|at the window|in the dark]. "[Who is there|Is it a monster|What is that]?" {hero.he} whispered. {elder} [lit
    the lamp|turned on the light|took a candle] and looked. It was only [the wind|the cat|a branch|a small mouse|the
    old clock]! {elder} [sang a song|told a story|sat by the bed], and soon {hero} [was asleep|fell asleep]. The next
    morning {hero} told {friend} about it, and they [laughed|both laughed].""",
    """{hero} dropped {hero.his} {colour} {fragile}, and it broke. {hero} [began to cry|was very sad|did not know what
    to do]. "Do not [cry|worry|be sad]," said {elder}. "[We can fix it|I can mend it|Let me see]." {elder} found [some
    glue|a hammer and nails|a piece of string] and worked [slowly|with care|for an hour]. At last the {fragile} was
    [whole again|as good as new]. "[Thank you|You did it]!" said {hero}, and {hero.he} gave {elder} a [big |]hug.
    Then {hero.he} showed it to {friend}.""",
    """It was {friend}'s birthday. {hero} put a {colour} {toy} in a box and tied it with a {colour2} ribbon. "[This is
    for you|Happy birthday]!" said {hero}. {friend} shook the box. "Is it a {toy2}?" asked {friend}. "No," said {hero}.
    {friend} opened the box and saw the {colour} {toy}. "[I love it|Just what I wanted|How pretty]!" said {friend}. Then
    they [sang|danced|ate cake|played] [together|until it was dark|all afternoon].""",
    """{hero} wanted to paint [a house|a tree|a boat|a hat|a flower], but {hero.he} had no {mixed} paint. {hero.He} only
    had {paint} and {paint2}. "[Mix them|Try to mix them|Put them together]," said {friend}. {hero} mixed {paint} and
    {paint2} [with a brush|in a cup|on a plate], and the paint turned {mixed}! "[Look|It works|That is magic]!" said
    {hero}. {hero.He} painted all [day|morning|afternoon], and {elder} put the picture on the wall.""",
    """{friend} was [sick|ill] and had to stay in bed. {hero} [was sorry for {friend}|wanted to help|had an idea].
    {hero.He} made [hot|warm] [soup|tea] and brought {total} {food} in a basket. "[How are you|Are you better]?" asked
    {hero}. "[My head hurts|I am tired|I am cold]," said {friend}. {hero} [read {friend.him} a story|sat with
    {friend.him}|told {friend.him} a joke], and {friend} [smiled|laughed]. {Days} days later {friend} was well and could
    play again.""",
    """{hero} wrote a letter to {visitor}, who lived far away. "Dear {visitor}, [I miss you,|please come to see us,|when
    will you come?]" {hero.he} wrote. {Days} days later [someone knocked at the door|the bell rang|there was a knock at
    the door]. It was {visitor}! {visitor.He} had brought {total} {food} and a {colour} {toy}. {hero} was so happy that
    {hero.he} [danced|jumped up and down|could not speak]. Then {friend} came to play with the {toy} too.""",
    """{hero} had a new drum. Boom, boom, boom! It was very loud. "[Please stop|Not so loud]," said {elder}. "The baby
    is asleep." {hero} thought about it. Then {hero.he} [took the drum to the garden|put a soft cloth on the drum|played
    with one finger]. Now it was [quiet|soft]. {friend} came with a [bell|flute|whistle], and they played a [song|tune]
    together. When the baby woke up, it [smiled|laughed|clapped].""",
)

OUTDOORS = (
    """{hero} went to the {place}. On the way {hero.he} heard a [small|sad] voice. "{beast.Voice}, {beast.voice}!" It
    was a [little|young|baby] {beast}. It was [lost|stuck in the mud|hungry|all alone]. "[Do not be afraid|I will help
    you|Poor thing]," said {hero}. {hero.He} gave it some {beast.eats} and [stayed with it|sat beside it]. Soon the
    mother came. "{beast.Voice}!" she called, and the little {beast} ran to her. {hero} told {friend} about the
    {beast}, and {friend} was [glad|happy] too.""",
    """{hero} put a [small|tiny|brown] seed in the ground. {hero.He} gave it water every [day|morning|evening]. {friend}
    came to look. "[There is nothing|I see nothing|Where is it]," said {friend}. "[Wait|Just wait|We must wait]," said
    {hero}. {Days} days later there was a green leaf. Then came [a bud|more leaves|a tall stem], and at last there was a
    [big |]{colour} flower. It was the [most beautiful|tallest|first] flower in the garden.""",
    """{hero} and {friend} had a race to the {place}. "[One, two, three, go|Ready, steady, go]!" they shouted. {hero}
    was fast, but {friend} was faster. Then {friend} fell [over a stone|in the mud|over a root] and hurt {friend.his}
    knee. {hero} [stopped|turned back]. "[Are you all right|Does it hurt]?" asked {hero}. {hero.He} helped {friend} up,
    and they walked [on together|side by side|slowly]. They got there at the same time, so both of them won.""",
    """{hero} had a {colour} boat made of [wood|paper]. {hero.He} put it on the pond, but the wind took it far away.
    "[Come back|Oh no|My boat]!" cried {hero}. {friend} could not reach it. A duck saw the boat. "Quack!" said the duck,
    and it [pushed|brought] the boat back to {hero}. "Thank you, duck," said {hero}, and {hero.he} gave the duck some
    bread. The next time {hero.he} tied a [long |]string to the boat.""",
    """{hero} and {friend} played hide and seek near the {place}. {hero} closed {hero.his} eyes and counted: {counting}.
    {hero.He} looked behind [a tree|a rock|the wall|the fence]. Nobody was there. {hero.He} looked [under a bush|behind
    a gate|in the tall grass]. Nobody was there. Then {hero.he} heard a [giggle|sneeze|little laugh]. {friend} was up in
    the tree! "[I found you|There you are]!" {hero} called. "Now it is your turn to [count|look]." """,
    """{hero} went to the market with {elder}. {hero.He} had {total} coins. A {toy} cost {given}. "[Can I buy it|May I
    have it]?" {hero.he} asked. "[Yes|Of course], it is your money," said {elder}. {hero} bought a {colour} {toy}, and
    then {hero.he} had {left} left. On the way home they met {friend}. "[What a nice|I like your] {toy}," said {friend}.
    {hero} let {friend} [hold it|play with it|carry it].""",
    """{hero} and {friend} had a picnic [by the river|under a tree|on the grass|on the hill]. They had bread,
    [cheese|jam|honey] and {total} {food}. A [{beast}|bird] came and [looked at them|wanted some too|sat down near
    them]. {friend} laughed and gave it a [piece|bit] of bread. They ate {given}, and then {left} {were} left.
    "[This is the best day|I am so full|What a lovely day]," said {hero}.""",
    """{hero} climbed [a|the old|the tall] tree to get {hero.his} {colour} kite. {hero.He} went up and up, but then
    {hero.he} looked down. "[I am afraid|I cannot get down|Help me]!" {hero.he} cried. {friend} heard {hero.him} and ran
    to get {elder}. {elder} came with a [long|tall] ladder. "[Hold on to me|One step at a time|I have you]," said
    {elder}. Soon {hero} was on the ground again. "[Thank you|I was so afraid|That was high]," said {hero}.""",
    """{hero} and {friend} visited a farm. They saw {n} {beast.many}. "{beast.Voice}, {beast.voice}!" said the
    {beast.many}. "What do they [eat|like]?" asked {hero}. "They [eat|like] {beast.eats}," said {friend}. {hero} [held
    out|brought] some {beast.eats}, and one {beast} came [close|to the fence]. It [ate from {hero.his}
    {hero.hands}|ate it all up|was very soft]. Then they [helped {elder} carry water|looked for eggs|fed the hens].""",
    """{hero} wanted to cross the [river|stream] on an old [bridge|log], but {hero.he} was afraid. "[It is too high|I
    might fall|I cannot do it]," said {hero}. {friend} went first. "[Look at me, not at the water|Walk behind me|Take
    small steps]," said {friend}. {hero} took one step, then two steps, then three. [At last|Soon] {hero.he} was on the
    other side. "I did it!" shouted {hero}. {hero.He} was very proud.""",
    """{hero} found a {colour} {toy} near the {place}. "[Whose is it|Who lost this]?" {hero.he} [asked|thought]. {hero}
    liked it and wanted to keep it. Then {hero.he} saw {friend}, who was crying. "I lost my {toy}," said {friend}. "Is
    it [{colour}|this one]?" asked {hero}, and {hero.he} gave it back. {friend} [stopped crying|was happy again|smiled].
    "You are [kind|honest|a good friend]," said {friend}, and they played with the {toy} together.""",
)

WEATHERS = (
    Weather("[the sun was shining|the sky was blue|there was not a cloud in the sky]", fair=True),
    Weather("[the spring air was mild|the air was fresh|it was warm and bright|birds were singing]", fair=True),
    Weather(
        "[it was raining|the rain was falling|dark clouds came and it began to rain]",
        fair=False,
        plots=(
            """{hero} put on {hero.his} {colour} boots and took an umbrella. Outside there were puddles everywhere.
            Splash! {hero} jumped into one. Splash! {friend} jumped too. They jumped into {n} puddles. A [frog|duck]
            watched them. Soon they were wet and cold. "Come [inside|in] and get dry," called {elder}. They sat by the
            fire and drank [hot milk|warm tea|hot soup]. Then the sun came out, and they saw a rainbow.""",
            """{hero} could not play outside. "[What can we do|Where can we play]?" {hero.he} asked. "[Let us build a
            house|We can make a tent]," said {friend}. They put a {colour} blanket over {n} chairs and sat inside with a
            lamp. The rain went drip, drop on the roof, but they were warm and dry. {elder} brought {total} {food}, and
            they told each other stories until the rain stopped.""",
            """{hero} met {friend} on the road. {friend} had no umbrella and was wet. "[Come under mine|We can share],"
            said {hero}. They walked under the {colour} umbrella to the house. {elder} gave {friend} a dry
            [coat|scarf|towel]. "[That was kind|Thank you]," said {friend}. "[I was so cold|Now I am warm]." They sat by
            the fire and listened to the rain.""",
        ),
    ),
    Weather(
        "[snow was falling|the ground was white with snow|there was ice on the pond]",
        fair=False,
        plots=(
            """{hero} and {friend} made a snowman. They rolled three big balls of snow. They gave him a carrot for a
            nose, {few} stones for buttons and a {colour} scarf to keep him warm. "[He looks happy|What a fine
            snowman|He is so tall]," said {friend}. Their {hero.hands} were cold, so they went inside and drank hot
            [milk|chocolate|tea]. {Days} days later the sun was warm, and the snowman was gone. Only the scarf was
            left.""",
            """The birds were hungry, because they could not find any seeds under the snow. "[Poor birds|They are
            hungry]," said {hero}. {hero.He} and {elder} put [bread|seeds] by the window. First one bird came. Then two
            more birds came, so there were three. "Tweet, tweet!" they sang. {friend} wanted to see them too. They all
            sat very still, and the birds ate [everything|it all].""",
            """{hero} had a {colour} sled. {hero.He} pulled it up the hill. {friend} came too. They sat down and went
            down the hill, fast and faster. Whoosh! The sled hit a [bush|stone], and they fell into the soft snow. "Are
            you [hurt|all right]?" asked {hero}. {friend} only laughed. "[Again|One more time]!" said {friend}. They
            went down the hill {n} times.""",
        ),
    ),
    Weather(
        "[the wind was blowing|a strong wind shook the trees|the wind sang in the chimney]",
        fair=True,
        plots=(
            """{hero} wore a {colour} hat. Whoosh! The wind took the hat away. It flew over [the wall|a fence|the pond]
            and all the way to the {place}. {hero} ran after it, but the wind was faster. Then the hat fell on the head
            of a {beast}. "{beast.Voice}!" said the {beast}. {friend} laughed and brought the hat back. "[Hold it
            tight|Tie it on|Take good care of it]," said {friend}.""",
            """{hero} and {friend} made a kite out of {colour} paper and a long string. They went up the hill. {hero}
            held the string, and {friend} ran with the kite. Up it went! It flew [high above the trees|like a bird|over
            the houses]. "[Can I hold it|May I try|Is it my turn]?" asked {friend}. "Yes," said {hero}. When the wind
            stopped, the kite came down, and they took it home.""",
        ),
    ),
    Weather(
        "[the fog was thick and grey|there was fog over the fields]",
        fair=False,
        plots=(
            """{hero} and {friend} went to the {place}, but they could not see the way. "[Where are we|Are we lost]?"
            asked {friend}. "[Hold on to me|Stay close to me]," said {hero}. They stood still and listened. Ding, dong!
            It was the bell of the village. They walked [towards|to] the sound, step by step, and soon they saw the
            light of the house. {elder} was at the door. "[There you are|I was worried|Come in]," said {elder}.""",
        ),
    ),
    Weather(
        "[it was very hot|the sun was hotter than ever]",
        fair=True,
        plots=(
            """{hero} and {friend} were thirsty. They squeezed {n} lemons, added water and sugar, and made lemonade. An
            old man walked by and wiped his face. "[Would you like a drink|Are you thirsty]?" asked {hero}. "[Yes,
            please|Thank you]," said the old man. "[This is cold and sweet|That is just what I needed]." Then {hero} and
            {friend} sat in the shade and drank the rest.""",
            """{hero} did not know how to swim. {friend} was in the water and called, "[Come in|It is nice and cool|Try
            it]!" {hero} put one foot in, then the other. {elder} held {hero.him}. "[Kick your legs|Move your arms|Do
            not be afraid]," said {elder}. {hero} kicked and kicked. Splash, splash! [At last|Soon|After a while]
            {elder} let go, and {hero} was swimming. "[Look at me|I can swim]!" {hero.he} shouted.""",
        ),
    ),
)

ENDINGS = (
    "[They were happy|It was a good day|What a day it was].",
    """From that day on {hero} and {friend} [were the best of friends|always helped each other|played together every
    day].""",
    "That [night|evening] {hero} [told {elder} all about it|was tired but happy|slept very well|dreamed of it].",
    """In the evening {elder} asked, "[How was your day|Did you have fun]?" "[It was wonderful|Yes, a lot]," said
    {hero}.""",
    """{hero} [learned|now knew] that [it is good to help|it is better to share|friends make everything better|it is
    easy to be kind].""",
    '"[See you tomorrow|Come again soon|Good night]," said {friend}, and {friend.he} went home.',
    "The end.",
    "",
)

_INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")  # no template says "a unicorn" or the like


def story(rng: random.Random) -> str:
    """One story: an opening, what happened, and an ending, each on a line of its own.

    Args:
        rng: where all its choices come from; the same state gives the same story.

    Returns:
        Five to fifteen sentences of plain ASCII, without a final newline.

    Example:
        >>> story(random.Random(7)) == story(random.Random(7))
        True
    """
    weather = rng.choice(WEATHERS)
    facts = {**_facts(rng), "sky": _choose(weather.sky, rng)}
    plots = INDOORS + weather.plots + (OUTDOORS if weather.fair else ())
    parts = (rng.choice(OPENINGS), rng.choice(plots), rng.choice(ENDINGS))
    return "\n".join(_tell(part, facts, rng) for part in parts if part)


def stories(seed: int) -> Iterator[str]:
    """Endlessly many stories, the same ones for the same seed."""
    rng = random.Random(seed)
    return (story(rng) for _ in itertools.count())


def _tell(template: str, facts: dict[str, object], rng: random.Random) -> str:
    text = _choose(template, rng).format_map(facts)
    return _A_BEFORE_VOWEL.sub(r"\1n ", " ".join(text.split()))


def _choose(template: str, rng: random.Random) -> str:
    """Makes every ``[this|that]`` choice, the inner ones first."""
    made = 1
    while made:
        template, made = _INNERMOST_CHOICE.subn(lambda choice: rng.choice(choice[1].split("|")), template)
    return template


def _facts(rng: random.Random) -> dict[str, object]:
    """Everything a template may name. What must differ or agree is drawn together."""
    hero, friend = _cast(rng)
    spot, spot2, spot3 = rng.sample(SPOTS, 3)
    colour, colour2 = rng.sample(COLOURS, 2)
    toy, toy2 = rng.sample(TOYS, 2)
    paint, paint2, mixed = rng.choice(MIXTURES)
    total = rng.randint(3, 9)
    given = rng.randint(1, total - 1)
    n = rng.randint(3, 9)
    return {
        "hero": hero,
        "friend": friend,
        "elder": rng.choice(ELDERS),
        "visitor": rng.choice(VISITORS),
        "beast": rng.choice(BEASTS),
        "place": rng.choice(PLACES),
        "spot": spot,
        "spot2": spot2,
        "spot3": spot3,
        "colour": colour,
        "colour2": colour2,
        "toy": toy,
        "toy2": toy2,
        "fragile": rng.choice(FRAGILE),
        "food": rng.choice(FOODS),
        "paint": paint,
        "paint2": paint2,
        "mixed": mixed,
        "total": NUMBERS[total],
        "given": NUMBERS[given],
        "left": NUMBERS[total - given],
        "were": "was" if total - given == 1 else "were",
        "n": NUMBERS[n],
        "counting": ", ".join(NUMBERS[1 : n + 1]),
        "few": NUMBERS[rng.randint(2, 6)],
        "Days": NUMBERS[rng.randint(2, 9)].capitalize(),
    }


def _cast(rng: random.Random) -> list[Who]:
    """The hero and a friend: children or animals, with different names."""
    animals = [Who(name, *rng.choice((SHE, HE)), rng.choice(FURRY_KINDS)) for name in rng.sample(FURRY, 2)]
    return rng.sample([*rng.sample(CHILDREN, 2), *animals], 2)


if __name__ == "__main__":
    print(*itertools.islice(stories(seed=0), int(sys.argv[1]) if len(sys.argv) > 1 else 1), sep="\n\n")
