"""What a fact can be: dates, towns, universities, fields, employers; all but fields are made up.

The order of the lists is part of the data: a word that is moved changes every generated world.
"""

from __future__ import annotations

_MONTHS = """
January February March April May June July August September October November December
"""
DATES = tuple(
    f"{day} {month} {year}"
    for year in range(1900, 2000)
    for month in _MONTHS.split()
    for day in range(1, 29)
)
"""33,600 days: every month has its first 28, so that day, month and year are independent."""

_TOWN_STEMS = """
Alder Brack Cold Dun Elm Fen Glen Hart Kirk Lang Marl North Oak Pen Quarr Ren Stan Thorn Ulver Win
"""
_TOWN_ENDS = "ford mouth bury dale wick stead moor ton ham field port brook"
TOWNS = tuple(stem + end for stem in _TOWN_STEMS.split() for end in _TOWN_ENDS.split())
"""240 towns."""

_SCHOOL_STEMS = """
Averill Belcourt Cavanell Dorrance Estmere Falworth Greville Hallam Ilvane Jessop Kelmar Lorrimer
Mandeville Netherby Ormond Pelham Quenby Rosslare Severn Tavistel Umberley Valcourt Westbrae Yarrow
"""
_SCHOOLS = (
    *("{} University", "University of {}", "{} College", "{} Institute of Technology"),
    *("{} Academy", "{} State University", "{} Polytechnic", "{} School of Arts"),
)
UNIVERSITIES = tuple(kind.format(s) for s in _SCHOOL_STEMS.split() for kind in _SCHOOLS)
"""192 universities."""

_FIELDS = """
Accounting Acoustics Agronomy Algebra Anatomy Anthropology Archaeology Architecture Astronomy Ballet
Banking Biochemistry Biology Botany Carpentry Cartography Ceramics Chemistry Choreography
Climatology Composition Counselling Criminology Cryptography Dentistry Dermatology Design Drama
Ecology Economics Education Electronics Engineering Entomology Epidemiology Ethics Ethnology Fashion
Film Finance Forestry Gardening Genetics Geodesy Geography Geology Geometry Glaciology Harmony
History Horticulture Hydrology Immunology Journalism Law Linguistics Literature Logic Logistics
Management Marketing Mathematics Mechanics Medicine Metallurgy Meteorology Microbiology Mineralogy
Music Neurology Nursing Nutrition Oceanography Optics Ornithology Painting Pedagogy Pharmacology
Philosophy Phonetics Photography Physics Physiology Poetry Politics Psychology Rhetoric Robotics
Sculpture Seismology Sociology Statistics Surgery Surveying Theology Toxicology
"""
FIELDS = tuple(_FIELDS.split())
"""96 fields."""

_FIRM_STEMS = """
Abrix Bolvane Cortrex Delmara Endovar Fintrel Gavotte Halvex Intermar Jolvane Kestrova Lumenta
Mirado Nortrix Olvera Pandrel Quorvex Relmont Solvani Tremadoc Urbanel Ventora Wexmar Xandril
Yelmora Zephrane Arcavell Brontel Celvara Dravent Elmarix Folgar
"""
_FIRMS = "Foods Airways Chemicals Instruments Press Textiles Motors Insurance"
EMPLOYERS = tuple(f"{stem} {kind}" for stem in _FIRM_STEMS.split() for kind in _FIRMS.split())
"""256 employers."""
