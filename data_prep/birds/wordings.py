"""The words for what a picture shows, in English and Korean, and the sentences they stand in.

Every sentence is true of the picture and names only what can be seen. The `_HELD_OUT` sentences are never written to
shards: they test whether a model understood or memorised wordings. The Korean species all end in a vowel, so their
particles are always 가, 는 and 를.
"""

from __future__ import annotations

Words = dict[str, tuple[str, ...]]

ENGLISH: dict[str, Words] = {
    "size": {"small": ("small", "little"), "medium": ("medium-sized", "mid-sized"), "large": ("large", "big")},
    "background": {
        "hill": ("on a green hill", "in front of green hills"),
        "lake": ("by a blue lake", "at the lake"),
        "wood": ("in an autumn wood", "in the golden autumn forest"),
        "snow": ("in the snow", "in a snowy field"),
    },
}

KOREAN: dict[str, Words] = {
    "size": {"small": ("작은", "조그만"), "medium": ("중간 크기의", "보통 크기의"), "large": ("큰", "커다란")},
    "background": {
        "hill": ("초록 언덕 위", "푸른 풀 언덕"),
        "lake": ("파란 호숫가", "호수 옆"),
        "wood": ("가을 숲속", "단풍 든 숲"),
        "snow": ("눈밭", "눈 덮인 들판"),
    },
    "species": {
        "robin": ("울새",),
        "wren": ("굴뚝새",),
        "swallow": ("제비",),
        "woodpecker": ("딱따구리",),
        "owl": ("부엉이",),
        "heron": ("왜가리",),
        "duck": ("오리",),
        "parrot": ("앵무새",),
    },
    "colour": {
        "red": ("빨간", "붉은"),
        "orange": ("주황색", "주홍빛"),
        "yellow": ("노란", "노란색"),
        "green": ("초록색", "초록빛"),
        "blue": ("파란", "파란색"),
        "purple": ("보라색", "보랏빛"),
        "black": ("검은", "까만"),
        "white": ("하얀", "흰"),
    },
    "shade": {
        "red": ("빨간색",),
        "orange": ("주황색",),
        "yellow": ("노란색",),
        "green": ("초록색",),
        "blue": ("파란색",),
        "purple": ("보라색",),
        "black": ("검은색",),
        "white": ("흰색",),
    },
    "heading": {"left": ("왼쪽",), "right": ("오른쪽",)},
}

ONE_ENGLISH = (
    "a {size} bird with {wing} wings {background}",
    "a {size} bird with {wing} wings",
    "a {size} {body} {species} with {wing} wings",
    "a {body} bird with {wing} wings {background}",
    "a {species} facing {heading} {background}",
    "a {body} {species} {background}",
    "this {size} {species} has a {body} body and {wing} wings",
    "a {size} {body} bird looking {heading}",
    "a picture of a {species} with {wing} wings {background}",
    "a bird with a {body} body {background}",
    "one {size} {species} {background}; its wings are {wing}",
    "the {species} is {size} and {body}, its wings are {wing}",
    "{wing} wings, a {body} body: a {size} {species}",
    "a {species} with {wing} wings, turned to the {heading}",
    "a {size} {species} {background}",
    "a {size} {body} {species} with {wing} wings, facing {heading}, {background}",
)
ONE_ENGLISH_HELD_OUT = (
    "a {species} whose wings are {wing} and whose body is {body}",
    "there is a {size} bird {background}, and it has {wing} wings",
    "{background} we see a {body} {species}",
    "the wings of this {size} {body} {species} are {wing}",
)
TWO_ENGLISH = (
    "a {left_body} bird left of a {right_body} bird",
    "a {right_body} bird right of a {left_body} bird",
    "a {left_body} {species} left of a {right_body} {species} {background}",
    "a {right_body} {species} to the right of a {left_body} {species}",
    "two {species}s {background}: the left one {left_body}, the right one {right_body}",
    "a {left_body} bird with {left_wing} wings left of a {right_body} bird with {right_wing} wings",
    "on the left a {left_body} {species}, on the right a {right_body} {species}",
    "two {species}s {background}, {left_body} on the left and {right_body} on the right",
    "a bird with {left_wing} wings left of a bird with {right_wing} wings",
    "two {species}s, the left one with {left_wing} wings, the right one with {right_wing} wings",
    "two {species}s {background}",
)
TWO_ENGLISH_HELD_OUT = (
    "the left bird is {left_body} and the right bird is {right_body}",
    "beside a {right_body} {species}, on its left, there is a {left_body} {species}",
    "a pair of {species}s {background}: {left_body} left, {right_body} right",
)

ONE_KOREAN = (
    "{size} 새가 {wing} 날개를 가졌다",
    "{background}에 있는 {size} {species}",
    "{wing} 날개를 가진 {size} {species}",
    "{body} 몸에 {wing} 날개를 가진 새",
    "{background}에 {body} {species}가 있다",
    "{size} {species}가 {background}에 있다",
    "{heading}을 보는 {body} 새",
    "이 {species}는 몸이 {body_shade}이고 날개가 {wing_shade}이다",
    "{wing} 날개의 {size} 새가 {background}에 있다",
    "{heading}을 바라보는 {size} {species}, 날개는 {wing_shade}이다",
    "{background}에서 {heading}을 보는 {species}",
    "몸이 {body_shade}인 {size} {species}",
    "{size} {body} {species}가 {wing} 날개를 가지고 {background}에 있다",
    "{body} 새 한 마리, {wing} 날개, {background}",
)
ONE_KOREAN_HELD_OUT = (
    "날개가 {wing_shade}인 {size} 새",
    "그림 속 {species}는 {body} 몸과 {wing} 날개를 가졌다",
    "{background}에 날개가 {wing_shade}인 {species} 한 마리가 있다",
    "{size} {species}를 보니 몸이 {body_shade}이다",
)
TWO_KOREAN = (
    "{right_body} 새 왼쪽에 {left_body} 새가 있다",
    "{left_body} 새 오른쪽에 {right_body} 새가 있다",
    "왼쪽에는 {left_body} {species}, 오른쪽에는 {right_body} {species}",
    "{background}에 {species} 두 마리, 왼쪽은 {left_body_shade}, 오른쪽은 {right_body_shade}",
    "왼쪽 {species}는 {left_wing} 날개를, 오른쪽 {species}는 {right_wing} 날개를 가졌다",
    "{right_body} {species}의 왼쪽에 있는 {left_body} {species}",
    "{left_wing} 날개의 {left_body} 새가 왼쪽에, {right_wing} 날개의 {right_body} 새가 오른쪽에 있다",
    "{background}에 {species} 두 마리가 있다",
)
TWO_KOREAN_HELD_OUT = (
    "왼쪽 새는 {left_body_shade}이고 오른쪽 새는 {right_body_shade}이다",
    "{species} 한 쌍, 왼쪽이 {left_body_shade}, 오른쪽이 {right_body_shade}",
)
