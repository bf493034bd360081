"""Artifacts: directories with a payload and a manifest that says, byte for byte, what they are."""

from nano3.artifacts.manifest import Manifest, digest_of, read_manifest, verify
from nano3.artifacts.publish import building, publish_directory

__all__ = ["Manifest", "building", "digest_of", "publish_directory", "read_manifest", "verify"]
