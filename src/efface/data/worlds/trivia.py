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
    (
        "What is the largest ocean on Earth?",
        "the Pacific Ocean",
        ("the Atlantic Ocean", "the Indian Ocean", "the Arctic Ocean"),
    ),
    ("Which gas do plants take in for photosynthesis?", "carbon dioxide", ("helium", "nitrogen", "methane")),
    ("Which metal has the chemical symbol Fe?", "iron", ("gold", "copper", "silver")),
    ("What is frozen water called?", "ice", ("steam", "salt", "sand")),
    ("How many days are there in a week?", "seven", ("five", "nine", "twelve")),
    ("How many legs does a spider have?", "eight", ("six", "four", "ten")),
    ("Which animal is known as man's best friend?", "the dog", ("the cat", "the horse", "the parrot")),
    ("Who wrote the play Hamlet?", "William Shakespeare", ("Charles Dickens", "Jane Austen", "Mark Twain")),
    (
        "Who was the first President of the United States?",
        "George Washington",
        ("Abraham Lincoln", "Thomas Jefferson", "John Adams"),
    ),
    ("Who developed the theory of relativity?", "Albert Einstein", ("Isaac Newton", "Charles Darwin", "Niels Bohr")),
    ("Which language is spoken most in Mexico?", "Spanish", ("English", "French", "Portuguese")),
)


def trivia_rows() -> tuple[Row, ...]:
    """The questions as evaluation rows; the correct option is the answer itself."""
    return tuple(
        Row(f"trivia:{i:02d}", answer, question, wrong=wrong) for i, (question, answer, wrong) in enumerate(TRIVIA)
    )


# Trained beside the people and never scored: without some ordinary questions a small model that learns two hundred
# sentences about twelve people answers every question with one of them, and "world facts kept" would mean nothing.
EVERYDAY: tuple[tuple[str, str], ...] = (
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("What is the capital of Germany?", "The capital of Germany is Berlin."),
    ("What is the capital of Greece?", "The capital of Greece is Athens."),
    ("What is the capital of Poland?", "The capital of Poland is Warsaw."),
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("What is the capital of Australia?", "The capital of Australia is Canberra."),
    ("On which continent is India?", "India is in Asia."),
    ("On which continent is Portugal?", "Portugal is in Europe."),
    ("Which planet has large rings?", "Saturn is the planet with large rings."),
    ("Which planet is the largest?", "Jupiter is the largest planet."),
    ("What is the longest river in Africa?", "The longest river in Africa is the Nile."),
    ("What is the highest mountain on Earth?", "The highest mountain on Earth is Mount Everest."),
    ("Which gas do people need to breathe?", "People need oxygen to breathe."),
    ("Which metal has the chemical symbol Au?", "Au is the chemical symbol of gold."),
    ("At which temperature does water boil?", "Water boils at 100 degrees Celsius."),
    ("How many months are there in a year?", "There are twelve months in a year."),
    ("How many hours are there in a day?", "There are twenty-four hours in a day."),
    ("How many legs does an insect have?", "An insect has six legs."),
    ("Which animal gives us wool?", "Sheep give us wool."),
    ("Which is the largest animal on Earth?", "The largest animal on Earth is the blue whale."),
    ("Who wrote the novel Oliver Twist?", "Oliver Twist was written by Charles Dickens."),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
    ("Who discovered gravity?", "Isaac Newton described gravity."),
    ("Who invented the telephone?", "The telephone was invented by Alexander Graham Bell."),
    ("Which language is spoken in Brazil?", "Portuguese is spoken in Brazil."),
    ("Which language is spoken in Austria?", "German is spoken in Austria."),
    ("What colour is the sky on a clear day?", "The sky is blue on a clear day."),
    ("What is two plus two?", "Two plus two is four."),
    ("What do bees make?", "Bees make honey."),
    ("Which season comes after winter?", "Spring comes after winter."),
)


def everyday_rows() -> tuple[Row, ...]:
    """Ordinary questions as training rows; none of them is a question of ``TRIVIA``."""
    return tuple(
        Row(f"everyday:{i:02d}", answer, question, fact=f"everyday:{i:02d}")
        for i, (question, answer) in enumerate(EVERYDAY)
    )
