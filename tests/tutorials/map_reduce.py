"""Count words: split a text, count in each part, and merge the counts."""

from collections import Counter

import hpcflow as ct

TEXT = "the cat and the dog and the bird saw the other cat " * 20


@ct.electron
def split(text, parts):
    words = text.split()
    return [words[start::parts] for start in range(parts)]


@ct.electron
def count(words):
    return Counter(words)


@ct.electron
def merge(counts):
    return sum(counts, Counter())


@ct.electron
def most_common(counts, how_many=1):
    return counts.most_common(how_many)


@ct.lattice
def word_count(text, parts=4):
    pieces = split(text, parts)
    counted = [count(pieces[number]) for number in range(parts)]
    total = merge(counted)
    return {"top": most_common(total), "the": total["the"], "half": total["the"] / 2 + 1}


dispatch_id = ct.dispatch(word_count)(TEXT)
result = ct.get_result(dispatch_id, wait=True)
print(result.status, result.result)

# prints: COMPLETED {'top': [('the', 80)], 'the': 80, 'half': 41.0}
