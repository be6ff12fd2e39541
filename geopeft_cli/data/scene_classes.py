"""The classes of the published sets of scenes, in the order of their labels."""

from __future__ import annotations

from geopeft_cli.data.s3dis_rooms import PART_NAMES

S3DIS = PART_NAMES

SCANNET20 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refridgerator", "shower curtain", "toilet", "sink", "bathtub"),
    "otherfurniture",
)

SEMANTIC_KITTI = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
"""Of each class, the labels in files."""

SEMANTIC_KITTI_IGNORED = (0, 1, 52, 99)

SEMANTIC_KITTI_WRITTEN = (10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81)
"""The label in files of predictions, class by class."""

SEMANTIC_KITTI_WEIGHTS = (
    *(3.1557, 8.7029, 7.8281, 6.1354, 6.3161, 7.9937, 8.9704, 10.1922, 1.6155, 4.2187),
    *(1.9385, 5.5455, 2.0198, 2.6261, 1.3212, 5.1102, 2.5492, 5.8585, 7.3929),
)
"""Of the classes in the published loss: minus the logarithm of their share of all training points."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(";"))


SCANNET200 = _names(
    """
    wall; chair; floor; table; door; couch; cabinet; shelf; desk; office chair; bed; pillow; sink; picture; window;
    toilet; bookshelf; monitor; curtain; book; armchair; coffee table; box; refrigerator; lamp; kitchen cabinet;
    towel; clothes; tv; nightstand; counter; dresser; stool; cushion; plant; ceiling; bathtub; end table; dining
    table; keyboard; bag; backpack; toilet paper; printer; tv stand; whiteboard; blanket; shower curtain; trash can;
    closet; stairs; microwave; stove; shoe; computer tower; bottle; bin; ottoman; bench; board; washing machine;
    mirror; copier; basket; sofa chair; file cabinet; fan; laptop; shower; paper; person; paper towel dispenser;
    oven; blinds; rack; plate; blackboard; piano; suitcase; rail; radiator; recycling bin; container; wardrobe; soap
    dispenser; telephone; bucket; clock; stand; light; laundry basket; pipe; clothes dryer; guitar; toilet paper
    holder; seat; speaker; column; bicycle; ladder; bathroom stall; shower wall; cup; jacket; storage bin; coffee
    maker; dishwasher; paper towel roll; machine; mat; windowsill; bar; toaster; bulletin board; ironing board;
    fireplace; soap dish; kitchen counter; doorframe; toilet paper dispenser; mini fridge; fire extinguisher; ball;
    hat; shower curtain rod; water cooler; paper cutter; tray; shower door; pillar; ledge; toaster oven; mouse;
    toilet seat cover dispenser; furniture; cart; storage container; scale; tissue box; light switch; crate; power
    outlet; decoration; sign; projector; closet door; vacuum cleaner; candle; plunger; stuffed animal; headphones;
    dish rack; broom; guitar case; range hood; dustpan; hair dryer; water bottle; handicap bar; purse; vent; shower
    floor; water pitcher; mailbox; bowl; paper bag; alarm clock; music stand; projector screen; divider; laundry
    detergent; bathroom counter; object; bathroom vanity; closet wall; laundry hamper; bathroom stall door; ceiling
    light; trash bin; dumbbell; stair rail; tube; bathroom cabinet; cd case; closet rod; coffee kettle; structure;
    shower head; keyboard piano; case of water bottles; coat rack; storage organizer; folded chair; fire alarm;
    power strip; calendar; poster; potted plant; luggage; mattress
    """
)

SCANNETPP = _names(
    """
    wall; ceiling; floor; table; door; ceiling lamp; cabinet; blinds; curtain; chair; storage cabinet; office chair;
    bookshelf; whiteboard; window; box; window frame; monitor; shelf; doorframe; pipe; heater; kitchen cabinet;
    sofa; windowsill; bed; shower wall; trash can; book; plant; blanket; tv; computer tower; kitchen counter;
    refrigerator; jacket; electrical duct; sink; bag; picture; pillow; towel; suitcase; backpack; crate; keyboard;
    rack; toilet; paper; printer; poster; painting; microwave; board; shoes; socket; bottle; bucket; cushion;
    basket; shoe rack; telephone; file folder; cloth; blind rail; laptop; plant pot; exhaust fan; cup; coat hanger;
    light switch; speaker; table lamp; air vent; clothes hanger; kettle; smoke detector; container; power strip;
    slippers; paper bag; mouse; cutting board; toilet paper; paper towel; pot; clock; pan; tap; jar; soap dispenser;
    binder; bowl; tissue box; whiteboard eraser; toilet brush; spray bottle; headphones; stapler; marker
    """
)
