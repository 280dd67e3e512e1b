"""The worlds that property tests hold for: that of `quick`, the paper's, a small odd one, and that of the example."""

import runpy
from pathlib import Path

from deltaw.world import GrammarConfig, World, WorldConfig, published_world

QUICK = World()
PAPER = World(published_world())
ODD = World(
    WorldConfig(
        grammars=(
            GrammarConfig(3, "published-2", never=(1, 11), always=(0, 2, 10), operator_seed=40),
            GrammarConfig(7, "published-4", never=(4, 5, 6), always=(0, 1), aliases=(4, 9), operator_seed=77),
        ),
        text_length=(14, 17),
        pairs=3,
        alphabet=33,
        n_operators=12,
        refusal_nulls=2,
        redraw_below=0.9,
        late=0.5,
        alias_rate=0.1,
        left_out=(9, 11),
    )
)
KITCHEN = World(runpy.run_path(str(Path(__file__).parents[2] / "examples" / "kitchen.py"))["KITCHEN"])
WORLDS = {"quick": QUICK, "paper": PAPER, "odd": ODD, "kitchen": KITCHEN}
