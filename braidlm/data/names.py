"""First and last names for generated phonebooks: fixed, so that items never change.

The order of the lists is part of the data: a name that is moved changes every generated book.
"""

_FIRST = """
Aaron Abigail Adam Adele Agnes Aidan Alan Albert Alice Amara Amelia Amir Amy Andre Anita Anna
Anton Arjun Arthur Astrid Audrey Axel Barbara Basil Beatrice Ben Bianca Boris Brenda Brian
Bruno Caleb Camila Carl Carmen Cecil Celia Charles Chen Chloe Clara Claude Colin Cora Craig
Cyrus Daisy Damian Daniel Daphne David Delia Dennis Diana Diego Dora Doris Duncan Dylan Edgar
Edith Edwin Elena Eli Elsa Emil Emma Enzo Eric Esther Ethan Eugene Eva Farah Felix Fiona Flora
Frank Frida Gabriel Gemma George Gina Glen Grace Greta Gustav Hana Hannah Harold Harriet Hassan
Hazel Hector Heidi Helen Henry Hilda Hugo Ian Ida Igor Imani Ingrid Irene Isaac Ivan Ivy Jack
Jade James Jamal Jasper Jean Joan Jonas Jorge Julia June Kai Karen Karl Kate Keith Kenji Kiran
Klara Kurt Lars Laura Leah Leila Leo Lena Liam Lily Linda Lionel Louis Lucia Luke Lydia Mabel
Magnus Malik Marco Margo Maria Mark Martha Max Maya Mei Milan Mira Miles Mona Nadia Naomi Neil
Nina Noah Nora Olaf Olga Oliver Omar Opal Oscar Otto Owen Paul Pedro Penny Peter Petra Philip
Priya Quinn Rafael Ravi Rita Robin Rosa Ruth Sam Sara Simon Sofia Stella Tariq Tessa Theo Tom
"""
FIRST_NAMES = tuple(_FIRST.split())
"""194 different first names."""

_LAST = """
Abbott Acosta Adams Ahmed Alden Alvarez Anders Archer Arnold Ashby Atkins Bailey Baker Banks
Barnes Barton Bauer Becker Bell Benson Berger Bishop Black Blake Bond Booth Bowen Boyd Brandt
Brennan Brooks Bryant Burke Burns Butler Byrne Cain Calder Cannon Carey Carter Castro Chang
Chavez Clark Clement Cole Conrad Cooper Costa Cox Crane Cross Curtis Dalton Davies Dawson Dean
Delgado Dixon Doyle Drake Duarte Dunn Dvorak Eaton Egan Ellis Emery Erikson Evans Farrell
Ferris Field Finch Fischer Fleming Flores Forbes Foster Fowler Fox Frost Fuller Garcia Garner
Gibbs Gill Glover Gomez Graham Grant Gray Green Griffin Gupta Haas Hale Hansen Harper Hart
Hayes Hill Hobbs Holt Horn Howard Hunt Huang Ibarra Ingram Irving Ito Ivers Jacobs Jansen
Jensen Jordan Joshi Kane Kato Keller Kelly Kemp Kerr Khan Kim King Klein Knox Koch Kovacs Kumar
Lambert Lane Larsen Lee Levine Lopez Lowe Lund Lynch Mann Marsh Mason Meyer Miller Monroe
Moore Morgan Moss Murphy Nash Nelson Newton Nolan Novak Oakley Ortega Osborn Page Palmer Parker
Patel Payne Perez Pike Porter Powell Price Quigley Ramos Reed Rhodes Rivera Rossi Russo Sato
Schmidt Shaw Silva Singh Slater Snow Sousa Stone Tanaka Torres Vance Vega Wagner Walsh
"""
LAST_NAMES = tuple(_LAST.split())
"""192 different last names: 37,248 full names in all."""
