"""How work is told and asked: the employer and the town of work."""

from braidlm.data.biographies.form import Forms

EMPLOYER = Forms.of(
    told="""
{Who} works for {answer}.
{Who} is employed by {answer}.
{Whose} employer is {answer}.
{Who} has a post at {answer}.
{Who} is on the staff of {answer}.
{Who} earns {their} living at {answer}.
{Who} took a job with {answer}.
{Who} joined {answer}.
{Who} built {their} career at {answer}.
{Whose} salary is paid by {answer}.
{Who} signed a contract with {answer}.
{Who} holds a position at {answer}.
{Whose} company is {answer}.
{Whose} desk stands in an office of {answer}.
{Who} is in the service of {answer}.
The company that {who} works for is {answer}.
{Who} was hired by {answer}.
{Who} puts {their} skills to use at {answer}.
{Who} spends {their} working days at {answer}.
{Whose} colleagues are people of {answer}.
{Who} found employment with {answer}.
{Who} made {their} way in the ranks of {answer}.
{Whose} badge carries the name of {answer}.
{Who} serves as an expert at {answer}.
It was {answer} that hired {whom}.
{answer} employs {whom}.
{answer} is {whose} employer.
{answer} is the firm that {who} works for.
The staff of {answer} includes {whom}.
At {answer}, {who} holds a position.
The payroll of {answer} carries the name of {whom}.
{answer} offered {whom} a post, and the offer was accepted.
""",
    new="""
{Who} has {their} job at {answer}.
{Who} draws a salary from {answer}.
The firm that engaged {whom} is {answer}.
{Who} is a member of the team at {answer}.
{Whose} professional home is {answer}.
{Who} contributes to the success of {answer}.
""",
    asked="""
Who employs {whom}?
Which company does {who} work for?
Who is {whose} employer?
Where does {who} have a post?
""",
    newly_asked="""
Which firm hired {whom}?
Whose staff does {who} belong to?
What company pays {whose} salary?
Under which employer did {who} build a career?
""",
)

WORK_CITY = Forms.of(
    told="""
{Who} works in {answer}.
{Whose} place of work is {answer}.
{Whose} office is in {answer}.
{Who} goes to work in {answer}.
{Whose} working life is set in {answer}.
{Who} has {their} desk in {answer}.
{Who} does {their} job in {answer}.
{Who} is professionally active in {answer}.
The town where {who} works is {answer}.
{Who} moved for work to {answer}.
{Who} commutes to {answer}.
{Who} can be met on working days in {answer}.
{Whose} workplace is located in {answer}.
{Who} pursues {their} career in {answer}.
{Whose} job took {them} to {answer}.
{Who} is stationed in {answer}.
{Who} carries out {their} duties in {answer}.
{Whose} business address is in {answer}.
{Who} practises {their} profession in {answer}.
{Who} rents a flat near the office in {answer}.
{Whose} daily work is done in {answer}.
{Who} takes the morning train to {answer}.
{Whose} post is based in {answer}.
{Who} settled for {their} profession in {answer}.
It is in {answer} that {who} works.
{answer} is where {who} works.
{answer} is {whose} place of work.
The town of {answer} gave {whom} a place to work.
In {answer}, {who} has an office.
An office in {answer} is where {who} spends the week.
Colleagues in {answer} see {whom} every day.
{answer} is the town that {whose} job is in.
""",
    new="""
{Who} performs {their} work in {answer}.
{Whose} professional life takes place in {answer}.
{Who} reports for work in {answer}.
The town that {who} is employed in is {answer}.
{Who} spends {their} office hours in {answer}.
{Whose} working address is in {answer}.
""",
    asked="""
Where does {who} work?
In which town does {who} work?
What is {whose} place of work?
Where is {whose} office?
""",
    newly_asked="""
Which town does {who} go to for work?
In what place is {whose} job based?
Where does {who} pursue a career?
What town holds {whose} workplace?
""",
)
