"""Importers: other programs' result files, computed again from their own rows and compared with what they print.

``read.check`` is the entrance. Numbers are recomputed in the form their program defines (``printed`` against
``again``); where the corrected form of Efface differs, it stands beside them (``corrected``).
"""
