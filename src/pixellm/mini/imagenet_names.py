"""ImageNet classes that are instances of a category: initialises a dense classifier from the backbone's own one.

Indices are those of ImageNet-1k in its usual order (timm.data.ImageNetInfo gives their words).
"""

IMAGENET_CLASSES: dict[str, list[int]] = {
    **{"airplane": [404, 895], "apple": [948], "backpack": [414], "banana": [954], "bear": [294, 295, 296, 297]},
    **{"bed": [520, 564, 831], "bench": [703], "bicycle": [444, 671]},
    **{"bird": [*range(7, 25), *range(80, 101), *range(127, 147)]},
    **{"boat": [472, 484, 510, 554, 576, 625, 628, 780, 814, 871, 914], "book": [917, 921], "boot": [514]},
    **{"bottle": [440, 720, 737, 898, 907], "bowl": [659, 809], "bra": [459], "broccoli": [937]},
    **{"bus": [654, 779, 874], "car": [407, 436, 468, 511, 609, 656, 661, 751, 817], "cat": [*range(281, 286)]},
    **{"cell phone": [487], "chair": [423, 559, 765], "clock": [409, 530, 892], "couch": [831], "cow": [345, 346]},
    **{"cup": [504, 968], "dining table": [532], "dog": [*range(151, 269)], "donut": [931], "elephant": [385, 386]},
    **{"fig": [952], "hair drier": [589], "hamburger": [933], "handbag": [748], "hat": [439, 515, 808]},
    **{"horse": [339], "hot dog": [934], "ice cream": [928], "jeans": [608], "keyboard": [508, 878], "knife": [623]},
    **{"laptop": [620, 681], "loafer": [630], "microwave": [651], "monkey": [*range(369, 383)]},
    **{"motorcycle": [665, 670], "mouse": [673], "necklace": [679], "orange": [950], "otter": [360], "oven": [827]},
    **{"parking meter": [704], "person": [981, 982, 983], "pizza": [963], "potted plant": [738], "purse": [748]},
    **{"refrigerator": [760], "remote": [761], "sandal": [774], "sheep": [348, 349], "sink": [896], "skis": [795]},
    **{"skirt": [601, 655, 689], "spoon": [618, 910], "sports ball": [430, 522, 574, 722, 768, 805, 852, 890]},
    **{"stop sign": [919], "suit": [834], "sunglasses": [836, 837], "teddy bear": [850], "tennis racket": [752]},
    **{"tie": [451, 457, 906], "tiger": [292], "toaster": [859], "toilet": [861], "traffic light": [920]},
    **{"train": [466, 547, 705, 820, 829], "truck": [555, 569, 675, 717, 864, 867], "turtle": [*range(33, 38)]},
    **{"tv": [664, 782, 851], "umbrella": [879], "vase": [883], "wallet": [893], "watch": [531, 826]},
    **{"wine glass": [572, 966], "zebra": [340]},
}
