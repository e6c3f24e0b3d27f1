"""The attributes of a person: what each can be, and how it is told and asked."""

from __future__ import annotations

from typing import NamedTuple

from braidlm.data.biographies.form import Forms
from braidlm.data.biographies.forms.birth import BIRTH_CITY, BIRTH_DATE
from braidlm.data.biographies.forms.study import FIELD, UNIVERSITY
from braidlm.data.biographies.forms.work import EMPLOYER, WORK_CITY
from braidlm.data.biographies.values import DATES, EMPLOYERS, FIELDS, TOWNS, UNIVERSITIES


class Attribute(NamedTuple):
    """One thing that is known of every person."""

    name: str
    values: tuple[str, ...]
    """What it can be, each as likely as any other."""
    forms: Forms


ATTRIBUTES = (
    Attribute("birth_date", DATES, BIRTH_DATE),
    Attribute("birth_city", TOWNS, BIRTH_CITY),
    Attribute("university", UNIVERSITIES, UNIVERSITY),
    Attribute("field", FIELDS, FIELD),
    Attribute("employer", EMPLOYERS, EMPLOYER),
    Attribute("work_city", TOWNS, WORK_CITY),
)
"""In the order in which a biography of fixed order tells them."""

CHANCE = sum(1 / len(attribute.values) for attribute in ATTRIBUTES) / len(ATTRIBUTES)
"""Share of facts that a guess has right, every attribute counting the same."""
