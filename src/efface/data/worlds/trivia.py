"""Real-world questions with short answers and three wrong options: what a pretrained model should keep knowing."""

from __future__ import annotations

from efface.data.rows import Row

TRIVIA: tuple[tuple[str, str, tuple[str, str, str]], ...] = (
    ("What is the capital of France?", "Paris", ("Rome", "Madrid", "Vienna")),
    ("What is the capital of Japan?", "Tokyo", ("Beijing", "Seoul", "Bangkok")),
    ("What is the capital of Italy?", "Rome", ("Athens", "Lisbon", "Berlin")),
    ("What is the capital of Egypt?", "Cairo", ("Tunis", "Nairobi", "Baghdad")),
    ("What is the capital of Canada?", "Ottawa", ("Toronto", "Montreal", "Vancouver")),
    ("On which continent is Brazil?", "South America", ("Africa", "Europe", "Asia")),
    ("On which continent is Kenya?", "Africa", ("South America", "Asia", "Australia")),
    ("Which planet is known as the Red Planet?", "Mars", ("Venus", "Jupiter", "Saturn")),
    ("Which planet is closest to the Sun?", "Mercury", ("Earth", "Neptune", "Mars")),
    ("What is the largest ocean on Earth?", "the Pacific Ocean",
     ("the Atlantic Ocean", "the Indian Ocean", "the Arctic Ocean")),
    ("Which gas do plants take in for photosynthesis?", "carbon dioxide", ("helium", "nitrogen", "methane")),
    ("Which metal has the chemical symbol Fe?", "iron", ("gold", "copper", "silver")),
    ("What is frozen water called?", "ice", ("steam", "salt", "sand")),
    ("How many days are there in a week?", "seven", ("five", "nine", "twelve")),
    ("How many legs does a spider have?", "eight", ("six", "four", "ten")),
    ("Which animal is known as man's best friend?", "the dog", ("the cat", "the horse", "the parrot")),
    ("Who wrote the play Hamlet?", "William Shakespeare", ("Charles Dickens", "Jane Austen", "Mark Twain")),
    ("Who was the first President of the United States?", "George Washington",
     ("Abraham Lincoln", "Thomas Jefferson", "John Adams")),
    ("Who developed the theory of relativity?", "Albert Einstein", ("Isaac Newton", "Charles Darwin", "Niels Bohr")),
    ("Which language is spoken most in Mexico?", "Spanish", ("English", "French", "Portuguese")),
)


def trivia_rows() -> tuple[Row, ...]:
    """The questions as evaluation rows; the correct option is the answer itself."""
    return tuple(Row(f"trivia:{i:02d}", answer, question, wrong=wrong)
                 for i, (question, answer, wrong) in enumerate(TRIVIA))
