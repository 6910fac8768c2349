"""CHAIR's word lists (Rohrbach et al., 2018): which words name COCO's 80 categories, and which pairs are read as one word.

They are those of the authors' release; `chair` says which of its entries never match and are left out.
"""

from __future__ import annotations

# Category -> the other words that name it, beside its own name.
SYNONYMS: dict[str, str] = {
    # people
    "person": """
        girl, boy, man, woman, kid, child, chef, baker, people, adult, rider, children, baby, worker, passenger, sister,
        biker, policeman, cop, officer, lady, cowboy, bride, groom, male, female, guy, traveler, mother, father, gentleman,
        pitcher, player, skier, snowboarder, skater, skateboarder, foreigner, caller, offender, coworker, trespasser,
        patient, politician, soldier, grandchild, serviceman, walker, drinker, doctor, bicyclist, thief, buyer, teenager,
        student, camper, driver, solider, hunter, shopper, villager
    """,
    # vehicles
    "bicycle": "bike, unicycle, minibike, trike",
    "car": "automobile, van, minivan, sedan, suv, hatchback, cab, jeep, coupe, taxicab, limo, taxi",
    "motorcycle": "scooter, motor cycle, motorbike, moped",
    "airplane": "jetliner, plane, air plane, monoplane, aircraft, jet, airbus, biplane, seaplane",
    "bus": "minibus, trolley",
    "train": "locomotive, tramway, caboose",
    "truck": "pickup, lorry, hauler, firetruck",
    "boat": """
        ship, liner, sailboat, motorboat, dinghy, powerboat, speedboat, canoe, skiff, yacht, kayak, catamaran, pontoon,
        houseboat, vessel, rowboat, trawler, ferryboat, watercraft, tugboat, schooner, barge, ferry, sailboard, paddleboat,
        lifeboat, freighter, steamboat, riverboat, battleship, steamship
    """,
    # the street
    "traffic light": "street light, traffic signal, stop light, streetlight, stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    # animals
    "bird": """
        ostrich, owl, seagull, goose, duck, parakeet, falcon, robin, pelican, waterfowl, heron, hummingbird, mallard, finch,
        pigeon, sparrow, seabird, osprey, blackbird, fowl, shorebird, woodpecker, egret, chickadee, quail, bluebird,
        kingfisher, buzzard, willet, gull, swan, bluejay, flamingo, cormorant, parrot, loon, gosling, waterbird, pheasant,
        rooster, sandpiper, crow, raven, turkey, oriole, cowbird, warbler, magpie, peacock, cockatiel, lorikeet, puffin,
        vulture, condor, macaw, peafowl, cockatoo, songbird
    """,
    "cat": "kitten, feline, tabby",
    "dog": """
        puppy, beagle, pup, chihuahua, schnauzer, dachshund, rottweiler, canine, pitbull, collie, pug, terrier, poodle,
        labrador, doggie, doberman, mutt, doggy, spaniel, bulldog, sheepdog, weimaraner, corgi, cocker, greyhound,
        retriever, brindle, hound, whippet, husky
    """,
    "horse": "colt, pony, racehorse, stallion, equine, mare, foal, palomino, mustang, clydesdale, bronc, bronco",
    "sheep": "lamb, ram, goat, ewe",
    "cow": "cattle, oxen, ox, calf, holstein, heifer, buffalo, bull, zebu, bison",
    "elephant": "",
    "bear": "panda",
    "zebra": "",
    "giraffe": "",
    # what people carry
    "backpack": "knapsack",
    "umbrella": "",
    "handbag": "wallet, purse, briefcase",
    "tie": "bow, bow tie",
    "suitcase": "suit case, luggage",
    # sports
    "frisbee": "",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "",
    "skateboard": "",
    "surfboard": "longboard, skimboard, shortboard, wakeboard",
    "tennis racket": "racket",
    # the table
    "bottle": "",
    "wine glass": "",
    "cup": "",
    "fork": "",
    "knife": "pocketknife, knive",
    "spoon": "",
    "bowl": "container",
    "banana": "",
    "apple": "",
    "sandwich": "burger, sub, cheeseburger, hamburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "",
    "pizza": "",
    "donut": "doughnut, bagel",
    "cake": "cupcake, shortcake, coffeecake, pancake",
    # the house
    "chair": "seat, stool",
    "couch": "sofa, recliner, futon, loveseat, settee, chesterfield",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table, desk",
    "toilet": "urinal, commode, lavatory, potty",
    "tv": "monitor, televison, television",
    "laptop": "computer, notebook, netbook, lenovo, macbook, laptop computer",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "mobile phone, phone, cellphone, telephone, phon, smartphone",
    "microwave": "",
    "oven": "stovetop, stove",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge, freezer",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddybear",
    "hair drier": "hairdryer",
    "toothbrush": "",
}

# Two words that are read as one; as a value, the word they stand for ("" names nothing).
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
DOUBLE_WORDS: dict[str, str] = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    **dict.fromkeys(("motor bike", "home plate", "train track"), ""),
    "toilet seat": "toilet",
}

# Plurals that no rule of `_plural` makes.
IRREGULAR = {
    **{"person": "people", "man": "men", "woman": "women", "child": "children", "grandchild": "grandchildren"},
    **{"policeman": "policemen", "gentleman": "gentlemen", "serviceman": "servicemen", "thief": "thieves"},
    **{"goose": "geese", "ox": "oxen", "calf": "calves", "mouse": "mice", "knife": "knives", "pocketknife": "pocketknives"},
    **{
        "buffalo": "buffaloes",
        "sheep": "sheep",
        "scissors": "scissors",
        "skis": "skis",
        "bison": "bison",
        "aircraft": "aircraft",
    },
    **{"cattle": "cattle", "luggage": "luggage", "broccoli": "broccoli", "people": "people", "watercraft": "watercraft"},
}
