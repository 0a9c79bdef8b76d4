"""Ten requests whose answers repeat much of them, edits of code and quotations, and ten whose
answers do not."""

_FUNCTION = '''def read_table(path, separator=","):
    """Reads a table from a text file."""
    rows = []
    with open(path, encoding="utf-8") as file:
        header = file.readline().rstrip("\\n").split(separator)
        for line in file:
            values = line.rstrip("\\n").split(separator)
            rows.append(dict(zip(header, values)))
    return rows
'''

_CLASS = """class Queue:
    def __init__(self, most):
        self.most = most
        self.items = []

    def push(self, item):
        if len(self.items) >= self.most:
            raise IndexError("the queue is full")
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("the queue is empty")
        return self.items.pop(0)
"""

_LOOP = """total = 0
count = 0
for number in numbers:
    if number > 0:
        total = total + number
        count = count + 1
if count > 0:
    print("mean of the positive numbers:", total / count)
else:
    print("there are no positive numbers")
"""

_PAGE = """<ul class="menu">
  <li><a href="/index.html">Home</a></li>
  <li><a href="/news.html">News</a></li>
  <li><a href="/contact.html">Contact</a></li>
  <li><a href="/about.html">About</a></li>
</ul>
"""

_SETTINGS = """{
  "name": "weather-station",
  "version": "1.4.2",
  "interval_seconds": 300,
  "sensors": ["temperature", "humidity", "pressure"],
  "upload": {"host": "data.example.org", "port": 8443, "retries": 5}
}
"""

_SPEECH = """\
Four score and seven years ago our fathers brought forth on this continent, a new nation, \
conceived in Liberty, and dedicated to the proposition that all men are created equal. Now we \
are engaged in a great civil war, testing whether that nation, or any nation so conceived and \
so dedicated, can long endure. We are met on a great battle-field of that war."""

_CONTRACT = """\
The tenant shall pay the rent on the first working day of every month. If the rent is late by \
more than ten days, the landlord may charge a fee of two per cent of the amount that is due. \
The tenant shall keep the rooms in good order and shall report damage without delay. Neither \
party may end this contract before the end of the first year."""

_LETTER = """\
Dear Mrs Taylor, thank you for your order of the third of May. We are sorry to say that the \
blue curtains are out of stock and will not be delivered before the end of June. We can send \
you the green ones at once, or return your money. Please let us know what you prefer. Yours \
sincerely, the customer service of Hill and Sons."""

_RECIPE = """1. Boil 400 grams of potatoes in salted water for 20 minutes.
2. Fry two onions in three spoons of oil until they are brown.
3. Mash the potatoes with a cup of warm milk and a little butter.
4. Put the onions on the mash and serve it with apple sauce.
"""


def _code(task: str, code: str) -> str:
    return f"{task} Answer with the whole code.\n\n```\n{code}```"


REPEATING = (
    _code("Rename the function read_table to load_table.", _FUNCTION),
    _code("Write this function again with the default separator ';'.", _FUNCTION),
    _code("Add a method `__len__` at the end of this class.", _CLASS),
    _code("Rename the variable `total` to `sum_of_positive` in this program.", _LOOP),
    _code("Add an entry 'Archive' for /archive.html at the end of this list.", _PAGE),
    _code("Change the port to 9443 in these settings.", _SETTINGS),
    f'Repeat this text word for word, in quotation marks.\n\n"{_SPEECH}"',
    f'Quote the whole contract below, and then say what it is about.\n\n"{_CONTRACT}"',
    f"Correct the spelling of this letter, and write all of it again.\n\n{_LETTER}",
    f"Write this recipe again, word for word, with the title 'Mash with onions'.\n\n{_RECIPE}",
)

OTHERS = (
    "Tell a story about a lighthouse keeper who finds a bottle.",
    "Why is the sky blue?",
    "Describe a day in a small harbour town.",
    "What should one see in Rome in two days?",
    "Explain how a steam engine works.",
    "Write a poem about the first snow.",
    "How do bees find their way home?",
    "Give advice to somebody who moves to a new city.",
    "What were the causes of the French Revolution?",
    "Describe the taste of a ripe pear.",
)
