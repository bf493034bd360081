"""Convert packed SFT data to the Parquet layout that Megatron-Bridge loads.

    python scripts/export_packed_sft.py results/nano3/sft/data --output results/nano3/sft/parquet

Writes train/packs.parquet, valid/packs.parquet, ...; give Bridge the directory of a split.
"""

import argparse
from pathlib import Path

from nano3 import cli
from nano3.artifacts import building, verify
from nano3.chat.export import LEGACY_NAMES, write_legacy_npy, write_parquet
from nano3.chat.packing import PackedDataset
from nano3.errors import UserError


def main(argv: list[str] | None = None) -> None:
    """Convert every split and publish the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="packed SFT data, an artifact of scripts/sft_data.py")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--legacy-npy", action="store_true", help="also training_{pack}.npy of older Bridge versions")
    parser.add_argument("--trust-inputs", action="store_true", help="check sizes of input files but not their hashes")
    parser.add_argument("--log", type=Path, help="also write every message to this file")
    arguments = cli.parse(parser, argv)

    verify(arguments.data, hashes=not arguments.trust_inputs)
    splits = {name: PackedDataset(path) for name in LEGACY_NAMES if (path := arguments.data / name).is_dir()}
    if not splits:
        raise UserError(f"{arguments.data} has none of the splits {', '.join(LEGACY_NAMES)}; is it packed SFT data?")
    config = {"legacy_npy": arguments.legacy_npy}
    with building(arguments.output, kind="sft/parquet", config=config, inputs={"data": arguments.data}) as artifact:
        for name, dataset in splits.items():
            write_parquet(dataset, artifact.path / name / "packs.parquet")
            artifact.statistics[name] = {"packs": len(dataset), "pack_length": dataset.pack_length}
            cli.say(f"{name}: {len(dataset)} packs of {dataset.pack_length}")
        if arguments.legacy_npy:
            write_legacy_npy(splits, artifact.path)


if __name__ == "__main__":
    cli.run(main)
