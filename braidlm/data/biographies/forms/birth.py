"""How a birth is told and asked: its date and its town."""

from braidlm.data.biographies.form import Forms

BIRTH_DATE = Forms.of(
    told="""
{Who} was born on {answer}.
{Who} came into the world on {answer}.
{Whose} birthday is {answer}.
{Whose} date of birth is {answer}.
The birth of {whom} took place on {answer}.
{Whose} life began on {answer}.
{Who} first saw daylight on {answer}.
{Whose} mother gave birth on {answer}.
The register of births lists {whom} under {answer}.
{Whose} passport gives the date of birth as {answer}.
{Whose} parents welcomed {their} arrival on {answer}.
According to the records, {who} was born on {answer}.
The day on which {who} was born was {answer}.
As for the date of birth, {who} gives {answer}.
{Whose} birth was entered in the parish book on {answer}.
Friends of {whom} celebrate a birthday that goes back to {answer}.
{Who} has been on this earth since {answer}.
{Whose} story starts with a birth on {answer}.
{Who} drew {their} first breath on {answer}.
{Whose} birth certificate is dated {answer}.
{Who} arrived as a newborn on {answer}.
{Whose} family marks {their} birth on {answer}.
For {whom}, life started on {answer}.
{Who} was brought into the world on {answer}.
On {answer}, {who} was born.
It was on {answer} that {who} came into the world.
Born on {answer}, {who} is the subject of this note.
{answer} is the date on which {who} was born.
{answer} is {whose} birthday.
A child was born on {answer}, and it was {who}.
On {answer} a midwife helped {whom} into the world.
The date {answer} stands on {whose} birth certificate.
""",
    new="""
{Who} entered this life on {answer}.
{Whose} birth dates from {answer}.
{Whose} cradle was first filled on {answer}.
{Who} opened {their} eyes for the first time on {answer}.
The calendar on the day of {whose} birth showed {answer}.
{Who} counts {their} years from {answer}.
""",
    asked="""
When was {who} born?
What is {whose} date of birth?
On which day was {who} born?
What is {whose} birthday?
""",
    newly_asked="""
On what date did {who} come into the world?
Which date stands on {whose} birth certificate?
When did the life of {whom} begin?
What day marks the birth of {whom}?
""",
)

BIRTH_CITY = Forms.of(
    told="""
{Who} was born in {answer}.
{Who} grew up in {answer}.
{Whose} birthplace is {answer}.
{Whose} home town is {answer}.
{Who} comes from {answer}.
{Who} is a native of {answer}.
{Whose} place of birth is {answer}.
{Whose} cradle stood in {answer}.
{Who} spent {their} earliest years in {answer}.
The town where {who} was born is {answer}.
{Whose} roots lie in {answer}.
{Who} took {their} first steps in {answer}.
{Whose} parents were living in {answer} when the child was born.
{Who} is by birth a citizen of {answer}.
{Who} was raised in {answer}.
{Whose} childhood home was in {answer}.
{Who} hails from {answer}.
{Whose} family was settled in {answer} at the time of the birth.
{Who} learned to walk and to speak in {answer}.
The maternity ward where {who} was born is in {answer}.
{Whose} birth was announced in the newspaper of {answer}.
{Who} still calls the town of {their} birth home, and that is {answer}.
{Whose} passport names as place of birth {answer}.
{Who} is originally from {answer}.
It was in {answer} that {who} was born.
{answer} is where {who} was born.
{answer} is {whose} birthplace.
The town of {answer} saw the birth of {whom}.
Born in {answer}, {who} kept a love for the place.
In {answer} people remember {whom} as a child of the town.
The streets of {answer} were {whose} first playground.
{answer} lists {whom} among those who were born there.
""",
    new="""
{Who} first saw the light of day in {answer}.
{Who} has {their} origins in {answer}.
The place that {who} was born in is called {answer}.
{Whose} native town is {answer}.
{Who} started life in {answer}.
{Whose} earliest memories are of {answer}.
""",
    asked="""
Where was {who} born?
What is {whose} birthplace?
In which town was {who} born?
What is {whose} home town?
""",
    newly_asked="""
Which town does {who} come from?
What place saw the birth of {whom}?
Which town is named in {whose} passport as place of birth?
Where did the life of {whom} begin?
""",
)
