"""Categories: groups of them, synonyms, and which may be given to one and the same object.

Pure tables. Names are singular, lower case; a word in brackets tells senses apart.
"""

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

UPPER_BODY = ("blouse", "shirt", "t-shirt", "top", "bra", "vest", "jacket", "coat", "blazer", *KNITWEAR)
LEG_WEAR = ("pants", "jeans", "shorts", "leggings", "stockings", "tights", "skirt")
WHOLE_BODY = ("dress", "romper", "suit", "bodysuit", "cape")
# Where these are, food that nobody annotates (bread, salad, rice …) is likely.
AT_TABLE = (
    *("dining table", "bowl", "cup", "wine glass", "bottle", "fork", "knife", "spoon"),
    *("refrigerator", "oven", "microwave", "toaster", "sink"),
)

# What `attributes.yaml` calls them.
GROUPS: dict[str, tuple[str, ...]] = {
    **{"SHOES": SHOES, "UPPER_BODY": UPPER_BODY, "LEG_WEAR": LEG_WEAR, "WHOLE_BODY": WHOLE_BODY},
    **{"FRUITS": FRUITS, "DESSERTS": DESSERTS, "FOOD": FOOD, "AT_TABLE": AT_TABLE},
    **{"FARM_ANIMALS": FARM_ANIMALS, "WILD_ANIMALS": WILD_ANIMALS, "ANIMALS": ANIMALS, "VEHICLES": VEHICLES},
}

# Every name whose attributes are decided in `attributes.yaml`.
CATEGORIES = frozenset((*COCO, *CLOTHING, *FOOD, *ANIMALS, *VEHICLES, "road", "hair", "skin"))

# Other words for a category. The answer still uses the category's own name. No word here is another category's name.
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
# A word that also fits these categories is not used for an image that has one of them.
WORD_ALSO_MEANS: dict[str, frozenset[str]] = {
    "bike": frozenset({"motorcycle"}),
    "cycle": frozenset({"motorcycle"}),
    "monitor": frozenset({"laptop"}),
    "racket": frozenset({"baseball bat"}),
    "screen": frozenset({"laptop", "cell phone"}),
}

# Names that annotators (or users) may well give to one and the same object: where one is present, none of the others is
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

# Objects whose colour tells them apart and fills their mask: not food, not see-through or thin, not people.
COLOURED = frozenset(
    (
        *("car", "bus", "train", "truck", "vehicle", "boat", "cat", "dog", "horse", "cow"),
        *("backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "snowboard", "kite", "surfboard"),
        *("chair", "couch", "bench", "cup", "bowl", "vase", "book", "refrigerator", "fire hydrant"),
        *("blouse", "shirt", "t-shirt", "top", "vest", "jacket", "coat", "blazer", "dress", "skirt", "bag", "purse"),
        *("sweater", "jumper", "cardigan", "sweatshirt", "hoodie", "hat", "scarf"),
    )
)

# Seldom in an image without being what it was taken for. Where a source does not annotate them, its images of a dog,
# say, may still be asked about a wider attribute ("animal"), but none of its images is said to have no animal.
CONSPICUOUS = frozenset((*ANIMALS, "airplane", "bus", "train", "truck", "boat", "kite"))
