"""The words for what a picture shows, in English and Korean, and the sentences they stand in.

Every sentence is true of the picture and names only what can be seen. Of `[one|another]` one alternative is drawn, so
that words turn up in many places and company. The `_HELD_OUT` sentences are never written to shards: they test whether
a model understood or memorised wordings. The Korean species all end in a vowel, so their
particles are always 가, 는, 를 and 와.
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
        "hill": ("초록 언덕 위", "풀이 난 언덕"),
        "lake": ("파란 호수 앞", "호숫가"),
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
    "[|a picture of |here is |look, ]a {size} bird with {wing} wings[| {background}]",
    "[a|the|this] [{size} |]{body} bird [with|that has|showing] {wing} wings[| {background}]",
    "a [{size} |]{body} {species} with {wing} wings[|, facing {heading}][|, {background}]",
    "a {wing}-winged [{body} |]{species}[| {background}]",
    "a {species} [facing|looking|turned] [|to the ]{heading}[| {background}]",
    "a {species} with {wing} wings, [turned to the|looking|facing] {heading}",
    "[a|this|the] {body} {species} {background}",
    "a [{size} |]{body} bird looking {heading}",
    "[|a picture of ]a {species} with {wing} wings {background}",
    "[this|a] {size} {species} {background}[|; its wings are {wing}|; its body is {body}]",
    "[this|the|a] [{size} |]{species} has [a {body} body and {wing} wings|{wing} wings and a {body} body]",
    "[this|the] [bird|{species}] has {wing} wings[| and is {size}| and a {body} body]",
    "[this|a] {size} bird has a {body} body[| and {wing} wings]",
    "a bird with a {body} body[| and {wing} wings][| {background}]",
    "a {size} bird with {wing} wings and a {body} body[| {background}]",
    "the [bird|{species}] is [{size} and |]{body}, [its|the] wings are {wing}",
    "[its|the bird's] [body is {body}, its wings are {wing}|wings are {wing}, its body is {body}]",
    "a {species}: [its body is {body}|the body is {body}], [its|the] wings are {wing}",
    "the wings are {wing} and the body is {body}: a {size} {species}",
    "the body is {body} and the wings are {wing}[|, {background}]",
    "{wing} wings[, a| and a] {body} body: a {size} [bird|{species}]",
    "{body} body, {wing} wings[|, {background}]",
    "a body of {body}, wings of {wing}[|, a {species}]",
    "a bird, its wings {wing}, its body {body}[|, {background}]",
    "{background}, a {size} {species}[| with {wing} wings]",
    "{background}: a [{size} |]{body} bird[|, its wings {wing}]",
    "a {species}, {wing} wings, {size}[|, {background}]",
    "a [bird|{species}] whose [wings are {wing}|body is {body}][|, {background}]",
    "[|a {size} {species}: ]it has [{wing} wings|a {body} body][| and is {background}]",
    "there is a [{size} |]{body} {species}[| {background}]",
    "the wings of the {species} are {wing}, the body of the {species} is {body}",
)
ONE_ENGLISH_HELD_OUT = (
    "a {species} whose wings are {wing} and whose body is {body}",
    "there is a {size} bird {background}, and it has {wing} wings",
    "{background} we see a {body} {species}",
    "the wings of this {size} {body} {species} are {wing}",
)
# Every construction of two birds comes in both orders: one that comes in one order alone says by itself who is left.
TWO_ENGLISH = (
    "[|a picture of ]a {left_body} [bird|{species}] [|to the ]left of a {right_body} [bird|{species}|one]"
    "[| {background}]",
    "[|a picture of ]a {right_body} [bird|{species}] [|to the ]right of a {left_body} [bird|{species}|one]"
    "[| {background}]",
    "a {left_body} bird with {left_wing} wings left of a {right_body} bird with {right_wing} wings",
    "a {right_body} bird with {right_wing} wings right of a {left_body} bird with {left_wing} wings",
    "[|two {species}s: |a pair of birds: |{background}, ][on the|at the|to the] left [is |there is |we see |]"
    "a {left_body} [bird|{species}][, | and ]"
    "[on the|at the|to the] right [is |there is |]a {right_body} [bird|{species}|one]",
    "[|two {species}s: |a pair of birds: |{background}, ][on the|at the|to the] right [is |there is |we see |]"
    "a {right_body} [bird|{species}][, | and ]"
    "[on the|at the|to the] left [is |there is |]a {left_body} [bird|{species}|one]",
    "[two {species}s|a pair of birds|two birds][|, {background}]: [a {left_body} one|{left_body}]"
    " [on the|at the|to the] left[, | and ]"
    "[a {right_body} one|{right_body}] [on the|at the|to the] right",
    "[two {species}s|a pair of birds|two birds][|, {background}]: [a {right_body} one|{right_body}]"
    " [on the|at the|to the] right[, | and ]"
    "[a {left_body} one|{left_body}] [on the|at the|to the] left",
    "[two {species}s|two birds|a pair][, |: ][left|the left one] {left_body}[, | and ][right|the right one]"
    " {right_body}",
    "[two {species}s|two birds|a pair][, |: ][right|the right one] {right_body}[, | and ][left|the left one]"
    " {left_body}",
    "the [left one|{species} on the left|bird on the left] [is|looks] {left_body}[, |; ]"
    "the [right one|{species} on the right|other bird] [is|looks] {right_body}",
    "the [right one|{species} on the right|bird on the right] [is|looks] {right_body}[, |; ]"
    "the [left one|{species} on the left|other bird] [is|looks] {left_body}",
    "the left {species} is {left_body}, the right {species} is {right_body}",
    "the right {species} is {right_body}, the left {species} is {left_body}",
    "the {left_body} [bird|{species}|one] is [on the|at the|to the] left, the {right_body} [bird|{species}|one]"
    " [is |][on the|at the|to the] right",
    "the {right_body} [bird|{species}|one] is [on the|at the|to the] right, the {left_body} [bird|{species}|one]"
    " [is |][on the|at the|to the] left",
    "the {left_body} [bird|{species}|one] is [|to the ]left of the {right_body} [bird|{species}|one][|, {background}]",
    "the {right_body} [bird|{species}|one] is [|to the ]right of the {left_body} [bird|{species}|one][|, {background}]",
    "to the left of a {right_body} [bird|{species}] [there is|we see|is] a {left_body} [bird|one]",
    "to the right of a {left_body} [bird|{species}] [there is|we see|is] a {right_body} [bird|one]",
    "a {right_body} [bird|{species}] and, to the left of it, a {left_body} [one|bird|{species}]",
    "a {left_body} [bird|{species}] and, to the right of it, a {right_body} [one|bird|{species}]",
    "[|there is ]a {left_body} [bird|{species}] with a {right_body} [bird|{species}|one] to the right of it",
    "[|there is ]a {right_body} [bird|{species}] with a {left_body} [bird|{species}|one] to the left of it",
    "beside a {left_body} [bird|{species}], on its right, [|there is ]a {right_body} [bird|one]",
    "beside a {right_body} [bird|{species}], on its left, [|there is ]a {left_body} [bird|one]",
    "left: a {left_body} [bird|{species}][, |; ]right: a {right_body} [bird|{species}]",
    "right: a {right_body} [bird|{species}][, |; ]left: a {left_body} [bird|{species}]",
    "a bird with {left_wing} wings [|to the ]left of a bird with {right_wing} wings",
    "a bird with {right_wing} wings [|to the ]right of a bird with {left_wing} wings",
    "two {species}s, the left one with {left_wing} wings, the right one with {right_wing} wings",
    "two {species}s, the right one with {right_wing} wings, the left one with {left_wing} wings",
    "the left [bird|{species}|one] is {left_body}[| and has {left_wing} wings]",
    "the right [bird|{species}|one] is {right_body}[| and has {right_wing} wings]",
    "the [bird|{species}|one] on the left has [a {left_body} body|{left_wing} wings]",
    "the [bird|{species}|one] on the right has [a {right_body} body|{right_wing} wings]",
    "a {left_body} [bird|{species}] [on the|at the|to the] left[|, {background}]",
    "a {right_body} [bird|{species}] [on the|at the|to the] right[|, {background}]",
    "[two|a pair of] {species}s {background}",
)
TWO_ENGLISH_HELD_OUT = (
    "the left bird is {left_body} and the right bird is {right_body}",
    "the right bird is {right_body} and the left bird is {left_body}",
    "beside a {right_body} {species}, to the left of it, there is a {left_body} {species}",
    "beside a {left_body} {species}, to the right of it, there is a {right_body} {species}",
    "a pair of {species}s {background}: {left_body} left, {right_body} right",
    "a pair of {species}s {background}: {right_body} right, {left_body} left",
)

ONE_KOREAN = (
    "{size} 새가 {wing} 날개를 [가졌다|가지고 있다]",
    "{size} 새가 {body} 몸을 가졌다",
    "{background}에 있는 [{size} |]{species}",
    "{wing} 날개를 가진 [{size} |][새|{species}][|, {background}]",
    "{body} 몸에 {wing} 날개를 가진 [새|{species}]",
    "{wing} 날개와 {body} 몸을 가진 [{size} |][새|{species}]",
    "{background}에 [{size} |]{body} {species}가 있다",
    "{size} {species}가 {background}에 있다",
    "{heading}을 [보는|바라보는] [{size} |]{body} 새",
    "[이|저] {species}는 몸이 {body_shade}이고 날개가 {wing_shade}이다",
    "[이|저] [새|{species}]는 날개가 {wing_shade}이고 몸이 {body_shade}이다",
    "{wing} 날개의 {size} [새|{species}]가 {background}에 있다",
    "{body} 몸의 [{size} |]{species}[|가 {background}에 있다]",
    "{heading}을 바라보는 {size} {species}. 날개는 {wing_shade}이다",
    "{background}에서 {heading}을 보는 {species}",
    "몸이 {body_shade}인 [{size} |]{species}",
    "날개 색이 {wing_shade}인 {species}[|, {background}]",
    "날개는 {wing_shade}, 몸은 {body_shade}인 [새|{species}]",
    "몸은 {body_shade}, 날개는 {wing_shade}인 {size} [새|{species}]",
    "몸 색은 {body_shade}, 날개 색은 {wing_shade}",
    "{species}의 [날개는 {wing_shade}이다|몸은 {body_shade}이다][|. {background}에 있다]",
    "{size} {body} {species}가 {wing} 날개를 가지고 {background}에 있다",
    "{body} 새 한 마리, {wing} 날개, {background}",
    "[{size} |]{species} 한 마리, {body} 몸, {wing} 날개",
    "그림에는 {wing} 날개를 가진 {species}가 있다",
    "[{size} |][{body} |]{species}를 그린 그림[|. 날개는 {wing_shade}이다]",
    "{background}에서 [{size} |]{species}를 볼 수 있다",
    "새의 날개가 {wing_shade}이다[|. 몸은 {body_shade}이다]",
    "새의 몸이 {body_shade}이다[|. 날개는 {wing_shade}이다]",
)
ONE_KOREAN_HELD_OUT = (
    "날개가 {wing_shade}인 {size} 새",
    "그림 속 {species}는 {body} 몸과 {wing} 날개를 가졌다",
    "{background}에 날개가 {wing_shade}인 {species} 한 마리가 있다",
    "{size} {species}를 보니 몸이 {body_shade}이다",
)
TWO_KOREAN = (
    "{right_body} [새|{species}][| 한 마리] 왼쪽에 {left_body} [새|{species}]가 있다",
    "{left_body} [새|{species}][| 한 마리] 오른쪽에 {right_body} [새|{species}]가 있다",
    "{right_body} [새|{species}]의 왼쪽에 있는 {left_body} [새|{species}][|, {background}]",
    "{left_body} [새|{species}]의 오른쪽에 있는 {right_body} [새|{species}][|, {background}]",
    "{right_body} [새|{species}]와 그 왼쪽의 {left_body} [새|{species}]",
    "{left_body} [새|{species}]와 그 오른쪽의 {right_body} [새|{species}]",
    "[|새 두 마리. |{species} 한 쌍: |{background}, ]왼쪽[에|에는|은] {left_body} [새|{species}], 오른쪽[에|에는|은]"
    " {right_body} [새|{species}]",
    "[|새 두 마리. |{species} 한 쌍: |{background}, ]오른쪽[에|에는|은] {right_body} [새|{species}], 왼쪽[에|에는|은]"
    " {left_body} [새|{species}]",
    "왼쪽에[|는] {left_body} [새|{species}]가 있고 오른쪽에[|는] {right_body} [새|{species}]가 있다",
    "오른쪽에[|는] {right_body} [새|{species}]가 있고 왼쪽에[|는] {left_body} [새|{species}]가 있다",
    "{left_body} [새|{species}]는 왼쪽에, {right_body} [새|{species}]는 오른쪽에 있다",
    "{right_body} [새|{species}]는 오른쪽에, {left_body} [새|{species}]는 왼쪽에 있다",
    "[새|{species}] 두 마리[|, {background}]. 왼쪽은 {left_body_shade}[, |이고 ]오른쪽은 {right_body_shade}",
    "[새|{species}] 두 마리[|, {background}]. 오른쪽은 {right_body_shade}[, |이고 ]왼쪽은 {left_body_shade}",
    "새 두 마리 중 왼쪽이 {left_body_shade}[이다. |이고 |, ]오른쪽이 {right_body_shade}이다",
    "새 두 마리 중 오른쪽이 {right_body_shade}[이다. |이고 |, ]왼쪽이 {left_body_shade}이다",
    "왼쪽 [새|{species}]는 {left_body_shade}, 오른쪽 [새|{species}]는 {right_body_shade}",
    "오른쪽 [새|{species}]는 {right_body_shade}, 왼쪽 [새|{species}]는 {left_body_shade}",
    "왼쪽 {species}는 {left_body_shade}, 오른쪽 {species}는 {right_body_shade}이다",
    "오른쪽 {species}는 {right_body_shade}, 왼쪽 {species}는 {left_body_shade}이다",
    "왼쪽 [새|{species}]의 몸은 {left_body_shade}[, |이고 ]오른쪽 [새|{species}]의 몸은 {right_body_shade}이다",
    "오른쪽 [새|{species}]의 몸은 {right_body_shade}[, |이고 ]왼쪽 [새|{species}]의 몸은 {left_body_shade}이다",
    "왼쪽에 있는 [새|{species}]는 {left_body_shade}[, |이고 ]오른쪽에 있는 [새|{species}]는 {right_body_shade}이다",
    "오른쪽에 있는 [새|{species}]는 {right_body_shade}[, |이고 ]왼쪽에 있는 [새|{species}]는 {left_body_shade}이다",
    "왼쪽 [새|{species}]는 [|몸이 ]{left_body_shade}이다",
    "오른쪽 [새|{species}]는 [|몸이 ]{right_body_shade}이다",
    "왼쪽에 있는 [새|{species}]는 [몸이 {left_body_shade}이다|{left_wing} 날개를 가졌다]",
    "오른쪽에 있는 [새|{species}]는 [몸이 {right_body_shade}이다|{right_wing} 날개를 가졌다]",
    "왼쪽에 {left_body} [새|{species}][가 있다|, {background}]",
    "오른쪽에 {right_body} [새|{species}][가 있다|, {background}]",
    "왼쪽 {species}는 {left_wing} 날개를, 오른쪽 {species}는 {right_wing} 날개를 가졌다",
    "오른쪽 {species}는 {right_wing} 날개를, 왼쪽 {species}는 {left_wing} 날개를 가졌다",
    "{left_wing} 날개의 {left_body} 새가 왼쪽에, {right_wing} 날개의 {right_body} 새가 오른쪽에 있다",
    "{right_wing} 날개의 {right_body} 새가 오른쪽에, {left_wing} 날개의 {left_body} 새가 왼쪽에 있다",
    "{background}에 [{species} 두 마리가 있다|있는 새 한 쌍]",
    "[새|{species}] 한 쌍: {left_body} [것이|새가] 왼쪽, {right_body} [것이|새가] 오른쪽에 있다",
    "[새|{species}] 한 쌍: {right_body} [것이|새가] 오른쪽, {left_body} [것이|새가] 왼쪽에 있다",
)
TWO_KOREAN_HELD_OUT = (
    "왼쪽 새는 {left_body_shade}이고 오른쪽 새는 {right_body_shade}이다",
    "오른쪽 새는 {right_body_shade}이고 왼쪽 새는 {left_body_shade}이다",
    "{species} 한 쌍, 왼쪽이 {left_body_shade}, 오른쪽이 {right_body_shade}",
    "{species} 한 쌍, 오른쪽이 {right_body_shade}, 왼쪽이 {left_body_shade}",
)
