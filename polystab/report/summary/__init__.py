"""The summary: one plain dict, made once, that every renderer reads; ``--format json`` is it.

``polystab_report``
    ``schema`` (1), ``version`` (of polystab), ``fingerprint`` (SHA-256 of labels and values).
``title``, ``source``
    Texts from the cube's attributes; ``source`` has ``summary``, ``source``, ``license``,
    ``references``, ``history``, ``created``, ``polystab_version``.

The other parts are each described at the top of the module that makes them:

- ``takeaways``: :mod:`polystab.report.summary.takeaways`
- ``contents``: :mod:`polystab.report.summary.contents`
- ``comparison``: :mod:`polystab.report.summary.comparison`
- ``audit``, ``copies``, ``findings``, ``diverged``: :mod:`polystab.report.summary.audit`
- ``curves``: :mod:`polystab.report.summary.curves`
- ``final``: :mod:`polystab.report.summary.final`
- ``variance``: :mod:`polystab.report.summary.variance`
- ``agreement``: :mod:`polystab.report.summary.agreement`
- ``representations``: :mod:`polystab.report.summary.representations`
- ``phases``: :mod:`polystab.report.summary.phases`
- ``networks``: :mod:`polystab.report.summary.networks`
- ``verdicts``, ``outliers``: :mod:`polystab.report.summary.outliers`
- ``warning``: :mod:`polystab.report.summary.warning`
- ``methods``: :mod:`polystab.report.summary.methods`

A summary for some sections only (``polystab.report(..., sections=...)``, in every format) has, beside ``polystab_report``,
``title``, ``source``, ``contents`` and ``methods``, the parts that these sections read, and no others; takeaways read
``comparison``, ``audit``, ``copies``, ``findings``, ``diverged``, ``final``, ``variance``, ``phases``, ``verdicts``, ``outliers`` and ``warning``.

Unknown numbers are null, infinite ones too (counts of diverged cells stand beside them).
"""

from __future__ import annotations

from polystab.report.summary.assembly import plain, summarise, summary_of
from polystab.report.summary.schema import SCHEMA, Summary

__all__ = ["SCHEMA", "Summary", "plain", "summarise", "summary_of"]
