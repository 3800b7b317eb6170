"""``select``: MUSE's rule for how long (or how strongly) a method runs, and the run at what it chose."""

from efface.selection.rule import SelectSettings, under_rule
from efface.selection.walk import Selected, plan, select

__all__ = ["SelectSettings", "Selected", "plan", "select", "under_rule"]
