"""Readers that see a prompt alone, and answer it by rule."""

import re
from collections import Counter

NEEDLE = re.compile(r"One of the special magic (?:numbers|uuids) for (\S+) is: (\S+)\.(?=\s|$)")
CITY = re.compile(r"The special magic (\S+) number is: (\d{7})\.")


def needles(prompt):
    """(key, value) of every needle, in the text's order."""
    return NEEDLE.findall(prompt) or CITY.findall(prompt)


def asked_keys(prompt):
    """The keys of the question, the last sentence of the text."""
    line = prompt[prompt.rindex("\nWhat ") :]
    if "magic number for" in line or "magic uuid for" in line:
        return re.findall(r"What is the special magic \S+ for (\S+) mentioned", line)
    if "special magic numbers for" not in line:
        return re.findall(r"What is the special magic (\S+) number\?", line)
    query = re.findall(r"special magic numbers for (.*?) mentioned", line)[0]
    return re.split(r", and |, ", query)


def answer(name, prompt):
    """What a model that reads well would say."""
    if name.startswith("niah"):
        found = needles(prompt)
        return " ".join(value for key in asked_keys(prompt) for k, value in found if k == key)
    if name == "vt":
        text = prompt[prompt.rindex("Memorize and track") :]
        value = re.findall(r"assigned the value (\d+)", text)[0]
        names = re.findall(rf"VAR (\w+) = {value}\b", text)
        for new, old in re.findall(r"VAR (\w+) = VAR (\w+)", text):
            if old in names:
                names.append(new)
        return " ".join(names)
    if name == "cwe":
        text = prompt[prompt.rindex("Below is a numbered") : prompt.rindex("\nQuestion")]
        words = re.split(r"(?:^|\s)\d+\. ", text[text.index("\n") :])[1:]
        return " ".join(word for word, _ in Counter(words).most_common(10))
    text = prompt[prompt.index("coded words. ") + 13 : prompt.index("\nQuestion")]
    common = [word for word, _ in Counter(text.split()).most_common(4)]
    return " ".join(word for word in common if word != "...")
