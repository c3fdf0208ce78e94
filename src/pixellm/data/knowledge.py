"""What is commonly known of the things that photographs are annotated with: other names, look-alikes, attributes.

Pure tables, read by `phrasing` to ask for things without naming them ("Which things here can be eaten?") and to be sure
that a thing is absent before an answer says so. Names are singular, lower case; a word in brackets tells senses apart.

An attribute divides every name of `NAMES` in three: `members`, `ambiguous`, and all others, for which it does not hold.
A picture with an ambiguous thing is never used for that attribute, nor is one with a thing outside `NAMES`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# The 80 categories of COCO (arXiv 1405.0312), in its order.
COCO = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
    *("microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
SHOES = ("shoe", "pump shoe", "high heel shoe", "flat shoe", "loafer", "sneaker", "sandal", "boot")
KNITWEAR = ("sweater", "jumper", "cardigan", "sweatshirt", "hoodie")
CLOTHING = (
    *SHOES,
    *KNITWEAR,
    *("blouse", "shirt", "t-shirt", "top", "bodysuit", "bra", "vest", "jacket", "coat", "blazer", "cape", "suit"),
    *("dress", "romper", "skirt", "pants", "jeans", "shorts", "leggings", "stockings", "tights", "sock"),
    *("hat", "glasses", "sunglasses", "scarf", "glove", "belt", "tie", "bag", "purse", "wallet"),
    *("necklace", "bracelet", "ring", "watch", "accessory"),
)
FRUITS = ("banana", "apple", "orange", "grape", "rambutan", "date (fruit)", "fig", "fruit")
CHICKEN = ("chicken (food)", "fried chicken", "grilled chicken", "chicken porridge", "satay")
DESSERTS = ("cake", "donut", "ice cream", "muffin", "waffle", "crepe")
FOOD = (
    *FRUITS,
    *CHICKEN,
    *DESSERTS,
    *("sandwich", "broccoli", "carrot", "hot dog", "pizza", "hamburger", "kebab", "steak", "fish (food)"),
    *("squid (food)", "shrimp", "sushi", "egg", "tofu", "tempeh", "rice", "noodles", "fried noodles", "soup"),
    *("meatball soup", "potato", "nut", "hazelnut"),
)
FARM_ANIMALS = ("horse", "sheep", "cow")
WILD_ANIMALS = ("elephant", "bear", "zebra", "giraffe", "deer", "tiger", "otter", "monkey")
ANIMALS = ("bird", "cat", "dog", "turtle", *FARM_ANIMALS, *WILD_ANIMALS)
VEHICLES = ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "vehicle")

# Every name whose attributes are decided below.
NAMES = frozenset((*COCO, *CLOTHING, *FOOD, *ANIMALS, *VEHICLES, "road", "hair", "skin"))

# Other words for a thing. The answer still uses the thing's own name. No word here is the name of another thing.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aircraft"),
    "backpack": ("rucksack", "knapsack"),
    "baseball glove": ("baseball mitt",),
    "bicycle": ("bike", "cycle"),
    "car": ("automobile",),
    "cell phone": ("phone", "mobile phone", "smartphone"),
    "couch": ("sofa", "settee"),
    "dining table": ("table", "dinner table"),
    "donut": ("doughnut",),
    "fire hydrant": ("hydrant",),
    "glasses": ("eyeglasses", "spectacles"),
    "hair drier": ("hair dryer", "blow dryer"),
    "hamburger": ("burger",),
    "laptop": ("laptop computer", "notebook computer"),
    "motorcycle": ("motorbike",),
    "mouse": ("computer mouse",),
    "oven": ("stove",),
    "pants": ("trousers",),
    "person": ("human",),
    "potted plant": ("plant", "houseplant"),
    "refrigerator": ("fridge",),
    "remote": ("remote control",),
    "sink": ("basin", "washbasin"),
    "sports ball": ("ball",),
    "sweater": ("pullover",),
    "teddy bear": ("stuffed bear", "toy bear"),
    "tennis racket": ("racket", "tennis racquet"),
    "tie": ("necktie",),
    "traffic light": ("traffic signal", "stoplight"),
    "truck": ("lorry",),
    "tv": ("television", "monitor", "screen"),
    "wine glass": ("wineglass",),
}
# Words for one person alone. Annotations say nothing of sex, and neither does the answer ("The person").
SINGLE_PERSON_WORDS = ("man", "woman")
# A word that also fits these things is not used in a picture that has one of them.
WORD_ALSO_MEANS: dict[str, frozenset[str]] = {
    "bike": frozenset({"motorcycle"}),
    "cycle": frozenset({"motorcycle"}),
    "monitor": frozenset({"laptop"}),
    "racket": frozenset({"baseball bat"}),
    "screen": frozenset({"laptop", "cell phone"}),
}

# Names that annotators (or users) may well give to one and the same thing: where one is present, none of the others is
# called absent.
OVERLAPS: tuple[frozenset[str], ...] = (
    frozenset({"bear", "teddy bear"}),
    frozenset({"person", "bra"}),  # under other clothes, it is out of sight rather than absent
    frozenset({"cup", "wine glass"}),
    frozenset({"wine glass", "glasses"}),
    frozenset({"potted plant", "vase"}),
    frozenset({"sandwich", "hot dog", "hamburger", "kebab"}),
    frozenset({"clock", "watch"}),
    frozenset({"noodles", "fried noodles", "soup"}),
    frozenset({"soup", "meatball soup", "chicken porridge"}),
    frozenset({"rice", "chicken porridge", "sushi"}),
    frozenset({"cake", "muffin", "waffle", "crepe"}),
    frozenset({"tofu", "tempeh"}),
    frozenset({"nut", "hazelnut"}),
    frozenset({"kebab", "steak", *CHICKEN}),
    *(frozenset({"fruit", name}) for name in FRUITS if name != "fruit"),
    *(frozenset({"vehicle", name}) for name in ("car", "bus", "truck")),
    frozenset(SHOES),
    frozenset({"bag", "purse", "handbag", "backpack", "wallet"}),
    frozenset({"blouse", "shirt", "t-shirt", "top", "bodysuit", "bra"}),
    frozenset({"top", "vest", *KNITWEAR}),
    frozenset({"jacket", "coat", "blazer", "suit", "cape", "cardigan", "vest", "hoodie"}),
    frozenset({"dress", "romper", "skirt", "suit", "top"}),
    frozenset({"pants", "jeans", "leggings", "shorts", "suit"}),
    frozenset({"leggings", "stockings", "tights", "sock"}),
    frozenset({"glasses", "sunglasses"}),
    frozenset({"accessory", "necklace", "bracelet", "ring", "watch", "belt", "scarf", "hat", "glove"}),
)

# Things whose colour tells them apart and fills their mask: not food, not see-through or thin, not people.
COLOURED = frozenset(
    (
        *("car", "bus", "train", "truck", "vehicle", "boat", "cat", "dog", "horse", "cow"),
        *("backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "snowboard", "kite", "surfboard"),
        *("chair", "couch", "bench", "cup", "bowl", "vase", "book", "refrigerator", "fire hydrant"),
        *("blouse", "shirt", "t-shirt", "top", "vest", "jacket", "coat", "blazer", "dress", "skirt", "bag", "purse"),
        *("sweater", "jumper", "cardigan", "sweatshirt", "hoodie", "hat", "scarf"),
    )
)

# Seldom in a picture without being what it was taken for. Where a source does not annotate them, its pictures of a dog,
# say, may still be asked about a wider attribute ("animal"), but none of its pictures is said to have no animal.
CONSPICUOUS = frozenset((*ANIMALS, "airplane", "bus", "train", "truck", "boat", "kite"))

# Where these are, food that nobody annotates (bread, salad, rice …) is likely.
_AT_TABLE = frozenset(
    (
        *("dining table", "bowl", "cup", "wine glass", "bottle", "fork", "knife", "spoon"),
        *("refrigerator", "oven", "microwave", "toaster", "sink"),
    )
)


@dataclass(frozen=True)
class Attribute:
    """A property of things, and how to ask for it.

    Args:
        key: its name in `ATTRIBUTES`.
        questions: wordings that ask for everything that it holds for.
        members: the names that it holds for.
        ambiguous: the names for which it is a matter of opinion.
        hints: things that make an unannotated member likely; a picture with one is never said to have no member.
        vocabularies: sets of names. A source that annotates one of them whole leaves no member out.
    """

    key: str
    questions: tuple[str, ...]
    members: frozenset[str]
    ambiguous: frozenset[str]
    hints: frozenset[str]
    vocabularies: tuple[frozenset[str], ...]

    def missing(self, known: frozenset[str]) -> frozenset[str]:
        """The members that a source with the names `known` leaves out, by the vocabulary that it covers best."""
        return min((vocabulary - known for vocabulary in self.vocabularies), key=len)


def _attribute(
    key: str,
    members: Iterable[str],
    questions: tuple[str, ...],
    ambiguous: Iterable[str] = (),
    hints: Iterable[str] = (),
    vocabularies: tuple[Iterable[str], ...] | None = None,
) -> Attribute:
    """By default, a source that annotates those members that are categories of COCO leaves none out."""
    members = frozenset(members)
    words = (members & frozenset(COCO),) if vocabularies is None else tuple(frozenset(names) for names in vocabularies)
    return Attribute(key, questions, members, frozenset(ambiguous), frozenset(hints), words)


_FOR_TOP = frozenset(("blouse", "shirt", "t-shirt", "top", "bra", "vest", "jacket", "coat", "blazer", *KNITWEAR))
_FOR_LEGS = frozenset({"pants", "jeans", "shorts", "leggings", "stockings", "tights", "skirt"})
_WHOLE_BODY = frozenset({"dress", "romper", "suit", "bodysuit", "cape"})

ATTRIBUTES: dict[str, Attribute] = {
    attribute.key: attribute
    for attribute in (
        _attribute(
            "human",
            ("person",),
            (
                "Who is in this picture?",
                "Which of these could talk to me?",
                "Segment everyone in this photo.",
                "Is anybody here?",
                "Who is here?",
            ),
            ambiguous=("skin", "hair"),
        ),
        _attribute(
            "animal",
            ANIMALS,
            (
                "Which animals are in this picture?",
                "Segment every animal.",
                "Are there any animals here?",
                "Show me the animals in this photo.",
                "Which living creatures here are not human?",
            ),
        ),
        _attribute(
            "pet",
            ("cat", "dog"),
            (
                "Which animals here do people keep as pets at home?",
                "Segment the pets.",
                "Is there a pet in this picture?",
                "Which animal here would live in a house with a family?",
            ),
            ambiguous=("bird", "turtle", "horse", "monkey"),
        ),
        _attribute(
            "wild animal",
            WILD_ANIMALS,
            (
                "Which animals here live in the wild?",
                "Segment the wild animals.",
                "Which of these would I meet on a safari or in a forest?",
                "Is there a wild animal in this photo?",
            ),
            ambiguous=("bird", "turtle", "cat"),
        ),
        _attribute(
            "farm animal",
            FARM_ANIMALS,
            (
                "Which animals here are kept on a farm?",
                "Segment the farm animals.",
                "Which of these eat grass in a farmer's field?",
                "Are there any farm animals here?",
            ),
            ambiguous=("bird", "cat", "dog", "deer", "elephant"),
        ),
        _attribute(
            "barks",
            ("dog",),
            (
                "Which animal here can bark?",
                "What here is known as man's best friend?",
                "Which animal could guard the house?",
                "Segment what would fetch a stick.",
            ),
        ),
        _attribute(
            "meows",
            ("cat",),
            (
                "Which animal here can meow?",
                "What in this picture would chase mice?",
                "Segment the animal that purrs.",
                "Which animal is known to have nine lives?",
            ),
            ambiguous=("tiger",),
        ),
        _attribute(
            "gives milk",
            ("cow",),
            (
                "Which animal here gives us milk?",
                "Segment the animal that beef comes from.",
                "Which animal says moo?",
                "What here can a farmer milk?",
            ),
            ambiguous=("sheep",),
        ),
        _attribute(
            "gives wool",
            ("sheep",),
            (
                "Which animal here gives us wool?",
                "What in this picture is shorn for its coat?",
                "Segment the animal that bleats.",
                "A shepherd looks after which of these?",
            ),
        ),
        _attribute(
            "is saddled",
            ("horse",),
            (
                "Which animal here can wear a saddle?",
                "What in this picture would a jockey ride?",
                "Segment the animal that neighs.",
                "Which animal here gallops?",
            ),
            ambiguous=("elephant", "cow", "zebra", "giraffe"),
        ),
        _attribute(
            "four-legged animal",
            ("cat", "dog", "turtle", "deer", "tiger", "elephant", "bear", "zebra", "giraffe", *FARM_ANIMALS),
            (
                "Which animals here have four legs?",
                "Segment the animals that walk on four legs.",
                "Show me every four-legged animal.",
                "Which creatures here go on four feet?",
            ),
            ambiguous=("monkey", "otter"),
        ),
        _attribute(
            "long neck or trunk",
            ("elephant", "giraffe"),
            (
                "Which of these is the tallest or the heaviest animal on land?",
                "Segment the animals with a trunk or a very long neck.",
                "Which animal here can reach high leaves?",
                "What here is a giant among the animals of Africa?",
            ),
        ),
        _attribute(
            "flies",
            ("airplane", "bird", "kite"),
            (
                "Which things here can fly?",
                "Segment whatever is able to fly.",
                "What in this picture belongs in the sky?",
                "Which of these can go up in the air?",
            ),
            ambiguous=("frisbee", "sports ball"),
        ),
        _attribute(
            "vehicle",
            VEHICLES,
            (
                "Which vehicles are in this picture?",
                "Segment everything that is made to carry people from place to place.",
                "What could I travel in or on here?",
                "Show me all means of transport.",
                "Which things here are vehicles?",
            ),
            ambiguous=("horse", "elephant", "skateboard", "surfboard", "skis", "snowboard"),
        ),
        _attribute(
            "two wheels",
            ("bicycle", "motorcycle"),
            (
                "Which things here have exactly two wheels?",
                "Segment the two-wheelers.",
                "What here has handlebars?",
                "What here needs a rider to keep its balance?",
            ),
            ambiguous=("horse", "skateboard", "suitcase"),
        ),
        _attribute(
            "has wheels",
            ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "vehicle", "skateboard"),
            (
                "Which things here have wheels?",
                "Segment everything with wheels.",
                "What in this picture can roll on wheels?",
                "Show me whatever has wheels.",
            ),
            ambiguous=("suitcase", "chair", "bed", "couch"),
        ),
        _attribute(
            "many passengers",
            ("bus", "train"),
            (
                "Which of these carries many passengers on land?",
                "Segment the public transport.",
                "What here would I need a ticket to ride in through the city?",
                "Which vehicle here has dozens of seats and runs on land?",
            ),
        ),
        _attribute(
            "runs on rails",
            ("train",),
            (
                "What here runs on rails?",
                "Which vehicle needs a track of steel?",
                "Segment what stops at a railway station.",
                "What here has a locomotive or a railway carriage?",
            ),
        ),
        _attribute(
            "goes on water",
            ("boat",),
            (
                "Which vehicle here travels on water?",
                "What could I cross a lake in?",
                "Segment whatever a captain would steer.",
                "What here belongs in a harbour?",
            ),
            ambiguous=("surfboard",),
        ),
        _attribute(
            "directs traffic",
            ("traffic light", "stop sign"),
            (
                "What here tells drivers to stop?",
                "Segment the signs and signals for traffic.",
                "What must a driver pay attention to at a crossing here?",
                "Which things here direct the traffic?",
            ),
            ambiguous=("parking meter",),
        ),
        _attribute(
            "gives water to firefighters",
            ("fire hydrant",),
            (
                "Where would firefighters get water from?",
                "What here would help to put out a fire?",
                "Segment what a fire hose is connected to.",
                "Which thing here is for the fire brigade?",
            ),
        ),
        _attribute(
            "takes parking money",
            ("parking meter",),
            (
                "Where would I pay for parking?",
                "What here takes coins from drivers?",
                "Segment what must be paid when leaving a car here.",
                "Which thing here measures how long a car may stay?",
            ),
        ),
        _attribute(
            "food",
            FOOD,
            (
                "Which things here can be eaten?",
                "I am hungry. What could I eat here?",
                "Segment all the food.",
                "What in this picture is food?",
                "Show me everything edible.",
            ),
            ambiguous=("cow", "sheep", "deer", "potted plant"),
            hints=_AT_TABLE,
        ),
        _attribute(
            "fruit",
            FRUITS,
            (
                "Which fruits are in this picture?",
                "What here is a fruit?",
                "What in this picture grows on fruit trees?",
                "Segment everything for a fruit salad.",
                "Show me the pieces of fruit.",
            ),
            ambiguous=("nut", "hazelnut"),
            hints=_AT_TABLE,
        ),
        _attribute(
            "vegetable",
            ("broccoli", "carrot"),
            (
                "Which vegetables are in this picture?",
                "Segment every vegetable.",
                "What here is grown in a vegetable garden?",
                "Which vegetables could go in a salad?",
            ),
            ambiguous=("potato", "soup", "tofu", "potted plant"),
            hints=(*_AT_TABLE, *FOOD),
        ),
        _attribute(
            "vitamin C",
            ("orange", "broccoli", "rambutan"),
            (
                "Which food here is rich in vitamin C?",
                "I have a cold. Which food here gives me a lot of vitamin C?",
                "Segment the best source of vitamin C.",
                "What here has plenty of vitamin C?",
            ),
            ambiguous=("apple", "banana", "carrot", "grape", "fruit", "potato", "potted plant"),
            hints=(*_AT_TABLE, *FOOD),
        ),
        _attribute(
            "dessert",
            DESSERTS,
            (
                "Which of these would be served as dessert?",
                "What here would please someone with a sweet tooth?",
                "Segment the sweet treats.",
                "Which sweet food would come at the end of a meal?",
            ),
            ambiguous=FRUITS,
            hints=_AT_TABLE,
        ),
        _attribute(
            "fast food",
            ("pizza", "hot dog", "hamburger", "kebab", "fried chicken"),
            (
                "Which fast food is in this picture?",
                "Segment the fast food.",
                "What here is sold at a snack bar?",
                "What here would be bad for someone who avoids fast food?",
            ),
            ambiguous=("sandwich", "donut", "fried noodles", "satay", "chicken (food)", "ice cream"),
            hints=_AT_TABLE,
        ),
        _attribute(
            "holds a drink",
            ("bottle", "wine glass", "cup"),
            (
                "What here can hold a drink?",
                "I am thirsty. Which things here hold drinks?",
                "Segment everything made to hold drinks.",
                "Which things here could be filled with water or wine to drink?",
            ),
            ambiguous=("bowl", "vase"),
        ),
        _attribute(
            "cutlery",
            ("fork", "knife", "spoon"),
            (
                "Which cutlery is on view?",
                "Segment the cutlery.",
                "What here is held in the hand to eat with?",
                "With which tools here would I eat my dinner?",
            ),
        ),
        _attribute(
            "cuts",
            ("knife", "scissors"),
            (
                "What here can cut paper or bread?",
                "Which things here have a sharp blade?",
                "Segment the things that cut.",
                "What should be kept away from children because it cuts?",
            ),
        ),
        _attribute(
            "kitchen appliance",
            ("microwave", "oven", "toaster", "refrigerator"),
            (
                "Which kitchen appliances are here?",
                "Segment every kitchen appliance.",
                "Which electric machines for the kitchen are in this picture?",
                "Show me the appliances that a cook uses.",
            ),
        ),
        _attribute(
            "heats food",
            ("microwave", "oven", "toaster"),
            (
                "What here can heat food?",
                "My soup or bread is cold. What could warm it up?",
                "Segment the appliances that get hot inside.",
                "Where could I cook or toast something?",
            ),
        ),
        _attribute(
            "cools food",
            ("refrigerator",),
            (
                "What keeps food cold here?",
                "Where would I store milk to keep it fresh?",
                "Segment what cools food.",
                "Which thing here is cold inside?",
            ),
        ),
        _attribute(
            "seat",
            ("chair", "couch", "bench"),
            (
                "Which furniture here is made to sit on?",
                "My legs are tired. Where could I sit down?",
                "Segment everything made for sitting.",
                "Show me the seats.",
            ),
            ambiguous=("bed", "toilet"),
        ),
        _attribute(
            "furniture",
            ("chair", "couch", "bed", "dining table"),
            (
                "Which pieces of furniture are in this picture?",
                "Segment the furniture.",
                "What here would movers carry as furniture into a new home?",
                "Show me every piece of furniture.",
            ),
            ambiguous=("bench", "toilet", "refrigerator", "sink", "oven", "tv"),
            # Shelves, desks and cupboards stand behind these, and nobody annotates them.
            hints=("book", "laptop", "keyboard", "mouse", "vase", "clock", "microwave", "bottle", "cup", "remote"),
        ),
        _attribute(
            "for sleeping",
            ("bed",),
            (
                "Where would I sleep at night?",
                "What here has a mattress?",
                "Segment what is made for sleeping.",
                "Which furniture here belongs in a bedroom?",
            ),
            ambiguous=("couch",),
        ),
        _attribute(
            "electronic",
            ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
            (
                "Which electronic devices are here?",
                "Segment the electronics.",
                "What here would be sold with computers and phones?",
                "Show me every electronic gadget.",
            ),
            ambiguous=(
                *("microwave", "oven", "toaster", "refrigerator", "hair drier", "clock", "watch"),
                *("traffic light", "parking meter"),
            ),
        ),
        _attribute(
            "has a screen",
            ("tv", "laptop", "cell phone"),
            (
                "Which things here have a screen to watch films on?",
                "Segment everything that can show a video.",
                "On what could I watch a film here?",
                "What here displays moving pictures?",
            ),
        ),
        _attribute(
            "makes calls",
            ("cell phone",),
            (
                "What could I use to call a friend?",
                "Which thing here can ring someone up?",
                "Segment what is used to make phone calls.",
                "What here sends text messages and makes calls?",
            ),
        ),
        _attribute(
            "for typing",
            ("laptop", "keyboard"),
            (
                "On which things here could I type a letter?",
                "Segment whatever has keys for typing.",
                "What here has letters to press with ten fingers?",
                "Which things here are used for typing?",
            ),
            ambiguous=("cell phone", "remote"),
        ),
        _attribute(
            "has pages",
            ("book",),
            (
                "What here has pages to read?",
                "What here could I borrow from a library?",
                "Segment what an author has written.",
                "Which things here are made of printed paper and a cover?",
            ),
        ),
        _attribute(
            "tells the time",
            ("clock", "watch"),
            (
                "What here tells the time?",
                "How could I know what time it is? Segment it.",
                "Segment whatever shows the hours and minutes.",
                "Which thing here would tell me that I am late?",
            ),
            ambiguous=("cell phone", "laptop", "tv", "microwave", "oven", "parking meter"),
        ),
        _attribute(
            "carries belongings",
            ("backpack", "handbag", "suitcase", "bag", "purse"),
            (
                "What here is used to carry belongings?",
                "Segment the bags and cases.",
                "In which things here could I pack my clothes or keys?",
                "Which things here have a zip and a strap or a handle?",
            ),
            ambiguous=("wallet", "accessory"),
            vocabularies=(("backpack", "handbag", "suitcase"), ("bag", "purse")),
        ),
        _attribute(
            "keeps off rain",
            ("umbrella",),
            (
                "It starts to rain. What here would keep me dry?",
                "What in this picture is opened against the rain or the sun?",
                "Segment what gives shelter from rain.",
                "Which thing here folds up and keeps off the rain?",
            ),
            ambiguous=("coat", "jacket", "hat", "hoodie", "cape", "boot"),
        ),
        _attribute(
            "sports equipment",
            (
                *("frisbee", "skis", "snowboard", "sports ball", "baseball bat", "baseball glove"),
                *("skateboard", "surfboard", "tennis racket"),
            ),
            (
                "Which sports equipment is in this picture?",
                "Segment the sports equipment.",
                "What here is used to play or do a sport?",
                "What here would be sold in a sports shop?",
            ),
            ambiguous=("kite", "bicycle", "sneaker", "boat"),
        ),
        _attribute(
            "for ball games",
            ("sports ball", "baseball bat", "baseball glove", "tennis racket"),
            (
                "What here is used in a ball game?",
                "Segment what players need to throw, hit or catch a ball, and the ball itself.",
                "Which things here belong to tennis, baseball or football?",
                "What here do ball players use?",
            ),
        ),
        _attribute(
            "stood on for sport",
            ("skis", "snowboard", "skateboard", "surfboard"),
            (
                "On what does one stand to ride in this sport?",
                "Segment the boards or skis.",
                "What here would someone put under the feet to glide, surf or skate?",
                "Which things here do riders stand on?",
            ),
        ),
        _attribute(
            "for snow",
            ("skis", "snowboard"),
            (
                "What here is made for going down a snowy slope?",
                "Segment the gear for winter sports.",
                "What here glides on snow?",
                "Which things here would I take to a ski resort?",
            ),
        ),
        _attribute(
            "cuddly toy",
            ("teddy bear",),
            (
                "Which toy here would a child hug?",
                "Segment the cuddly toy.",
                "What here is soft, stuffed and taken to bed by children?",
                "Is there a plush toy in this picture?",
            ),
        ),
        _attribute(
            "grows in a pot",
            ("potted plant",),
            (
                "What grows in a pot here?",
                "What here needs to be watered in its pot?",
                "Segment what a gardener keeps in a pot.",
                "Which thing here is alive and stands in a pot?",
            ),
            ambiguous=("vase",),
        ),
        _attribute(
            "cleans teeth",
            ("toothbrush",),
            (
                "What here cleans teeth?",
                "What would a dentist tell me to use twice a day?",
                "Segment what is used with toothpaste.",
                "Which thing here has bristles for the mouth?",
            ),
        ),
        _attribute(
            "has running water",
            ("sink", "toilet"),
            (
                "Which things here are connected to water pipes indoors?",
                "Segment what a plumber would install.",
                "Which things here have a drain?",
                "What here would I find in a washroom, made of ceramic or steel?",
            ),
            ambiguous=("refrigerator", "fire hydrant"),
        ),
        _attribute(
            "for the feet",
            (*SHOES, "sock"),
            (
                "What is worn on the feet here?",
                "Segment the footwear.",
                "Which things here cover the feet?",
                "What would be taken off before walking barefoot?",
            ),
            ambiguous=("stockings", "tights", "leggings", "skis", "snowboard"),
            vocabularies=((*SHOES, "sock"),),
        ),
        _attribute(
            "for the upper body",
            _FOR_TOP,
            (
                "Which clothes are worn on the upper body here?",
                "What covers the chest here?",
                "Segment the clothes for the upper body.",
                "Which garments here are put on over the shoulders?",
            ),
            ambiguous=(*_WHOLE_BODY, "scarf", "tie", "accessory"),
            vocabularies=(_FOR_TOP,),
        ),
        _attribute(
            "for the legs",
            _FOR_LEGS,
            (
                "What is worn on the legs here?",
                "Segment the clothes for the legs.",
                "Which garments here are worn below the waist, over the legs?",
                "What covers the legs here?",
            ),
            ambiguous=(*_WHOLE_BODY, "sock", "boot", "coat"),
            vocabularies=(_FOR_LEGS,),
        ),
        _attribute(
            "for the eyes",
            ("glasses", "sunglasses"),
            (
                "What is worn in front of the eyes here?",
                "Segment the eyewear.",
                "Which thing here has two lenses?",
                "What here would an optician sell?",
            ),
            vocabularies=(("glasses", "sunglasses"),),
        ),
        _attribute(
            "jewellery",
            ("necklace", "bracelet", "ring"),
            (
                "Which jewellery is worn here?",
                "Segment the jewellery.",
                "What here would a jeweller sell?",
                "What here may be of gold or silver and is worn as an ornament?",
            ),
            ambiguous=("watch", "accessory", "belt"),
            vocabularies=(("necklace", "bracelet", "ring"),),
        ),
    )
}


def related(name: str) -> frozenset[str]:
    """The names that share an attribute with `name`: what is likely to be mistaken for it, or found beside it."""
    groups = (attribute.members for attribute in ATTRIBUTES.values() if name in attribute.members)
    return frozenset().union(*groups) - {name}


def overlapping(name: str) -> frozenset[str]:
    """The names that the thing called `name` may also be called by."""
    return frozenset().union(*(group for group in OVERLAPS if name in group)) - {name}
