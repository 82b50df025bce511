"""The exact teacher of a run: next-token distributions from stored rows of `final` and the head.

from lpp.store.teacher import teacher

targets = teacher(run).targets(final, k=64)
"""

from lpp.store.teacher.teacher import Targets, Teacher, next_token_mask, teacher

__all__ = ["Targets", "Teacher", "next_token_mask", "teacher"]
