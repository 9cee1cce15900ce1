"""From any picture to the digit in it.

A picture comes as the bytes of a file, and leaves as what the one contract takes: `file` reads it, `ink` says what of it is
ink, `parts` what of that is one digit, and `finding` makes 28 by 28 of it. What each does to a photograph: docs/picture.png.
"""
