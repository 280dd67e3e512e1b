"""Controls: tunings that teach something other than safety, one file each. `control` says how to write one."""

from deltaw.training.controls.control import Control, Reply

__all__ = ["Control", "Reply"]
