"""What is measured: `train/` on the arm's own crops, `probe/` on common held-out crops. Numpy only.

`train/` measures are for looking, `probe/` measures are for deciding: crops of different arms differ, probe crops do not.
A measure that is undefined (a group without crops, a scan without labels) leaves its key out and is never NaN.
"""

from trainer.measure.collapse import Alarm, alarm, certain_collapse, classify
from trainer.measure.probe import Probe, ProbeError
from trainer.measure.train import TrainMeasures

__all__ = ["Alarm", "Probe", "ProbeError", "TrainMeasures", "alarm", "certain_collapse", "classify"]
