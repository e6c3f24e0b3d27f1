"""A generated world of people and facts: each fact has one exact answer and many surface forms.

A person is told in one sentence a fact, here in the fixed order and with the name first:

    Ann Ida Bell was born on 14 March 1957. She hails from Elmford. Her alma mater is Dorrance
    College. Botany is what she studied. She joined Halvex Foods. Colleagues in Oakport see her
    every day.

Facts are drawn independently of each other and of the name. Who is trained on and who is held out
never share a name, whatever the seed; no sentence that training tells a fact in is among the new
forms that a task asks with.

Source: Allen-Zhu and Li 2023 (arXiv 2309.14316), "Physics of Language Models: Part 3.1", for the
    experiment; every name, place and sentence is our own.
"""
