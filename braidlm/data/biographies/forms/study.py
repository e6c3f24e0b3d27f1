"""How studies are told and asked: the university and the field."""

from braidlm.data.biographies.form import Forms

UNIVERSITY = Forms.of(
    told="""
{Who} studied at {answer}.
{Who} graduated from {answer}.
{Who} took {their} degree at {answer}.
{Whose} university was {answer}.
{Whose} alma mater is {answer}.
{Who} attended {answer}.
{Who} was a student at {answer}.
{Who} was educated at {answer}.
{Who} received {their} diploma from {answer}.
{Who} enrolled at {answer}.
{Who} spent {their} student years at {answer}.
{Whose} teachers were professors of {answer}.
{Who} passed {their} final examinations at {answer}.
{Who} holds a degree from {answer}.
The lectures that {who} heard were given at {answer}.
{Who} is counted among the alumni of {answer}.
{Who} won a scholarship to {answer}.
{Who} was taught by the faculty of {answer}.
{Who} completed {their} higher education at {answer}.
{Whose} diploma bears the seal of {answer}.
{Who} wrote {their} thesis at {answer}.
For {their} studies, {who} chose {answer}.
{Whose} name stands in the roll of graduates of {answer}.
{Who} owes {their} training to {answer}.
It was {answer} that awarded {whom} a degree.
{answer} is where {who} studied.
{answer} counts {whom} among its graduates.
At {answer}, {who} went through {their} studies.
The halls of {answer} were {whose} home as a student.
{answer} gave {whom} a diploma.
A degree from {answer} hangs on {whose} wall.
The professors of {answer} remember {whom} as a student.
""",
    new="""
{Who} earned {their} degree from {answer}.
{Who} went to university at {answer}.
The school that granted {whose} degree is {answer}.
{Who} was admitted as an undergraduate to {answer}.
{Whose} academic home was {answer}.
{Who} finished {their} education at {answer}.
""",
    asked="""
Where did {who} study?
Which university did {who} attend?
What is {whose} alma mater?
From which university did {who} graduate?
""",
    newly_asked="""
Which school awarded {whom} a degree?
Whose diploma does {who} hold?
At what university was {who} a student?
Where did {who} receive {their} higher education?
""",
)

FIELD = Forms.of(
    told="""
{Who} studied the subject of {answer}.
{Whose} field is {answer}.
{Whose} major was {answer}.
{Who} majored in {answer}.
{Who} holds a degree in {answer}.
{Whose} subject was {answer}.
{Who} specialised in {answer}.
{Who} was trained in {answer}.
{Who} wrote a thesis on {answer}.
{Who} devoted {their} studies to {answer}.
{Whose} diploma is in {answer}.
{Whose} area of study was {answer}.
{Who} chose to read {answer}.
{Who} passed examinations in {answer}.
{Who} acquired a thorough knowledge of {answer}.
The courses that {who} took were mostly in {answer}.
{Whose} academic passion was {answer}.
{Who} concentrated on {answer}.
{Who} has a background in {answer}.
{Whose} education centred on {answer}.
{Who} is a graduate in {answer}.
The discipline that {who} took up is {answer}.
{Whose} professors taught {answer}.
{Who} went deeply into {answer}.
It was {answer} that {who} took {their} degree in.
{answer} was {whose} subject.
{answer} is what {who} studied.
Lectures on {answer} filled {whose} student years.
A degree in {answer} crowned {whose} studies.
Books about {answer} still fill {whose} shelves from {their} student days.
The field of {answer} drew {whom} early.
{answer} was the discipline that {who} chose.
""",
    new="""
{Who} pursued a degree in {answer}.
{Whose} course of study was {answer}.
{Who} focused {their} studies on {answer}.
The subject in which {who} was examined is {answer}.
{Whose} line of learning was {answer}.
{Who} became a scholar of {answer}.
""",
    asked="""
What did {who} study?
What was {whose} major?
What is {whose} field?
In which subject does {who} hold a degree?
""",
    newly_asked="""
Which discipline did {who} choose?
What was the subject of {whose} studies?
In what area was {who} trained?
What is the field of {whose} diploma?
""",
)
