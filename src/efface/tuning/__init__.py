"""``tune``: search settings of a method for the least forget ES at equal retention, on rows no audit scores."""

from efface.tuning.search import Tuned, plan, tune

__all__ = ["Tuned", "plan", "tune"]
