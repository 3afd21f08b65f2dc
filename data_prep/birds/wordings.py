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
    "the {wing} wings of [a|the] [{size} |]{body} [bird|{species}][| {background}]",
    "[its|the] wings are {wing}: [a|the] [{size} |]{body} [bird|{species}]",
)
ONE_ENGLISH_HELD_OUT = (
    "a {species} whose wings are {wing} and whose body is {body}",
    "there is a {size} bird {background}, and it has {wing} wings",
    "{background} we see a {body} {species}",
    "the wings of this {size} {body} {species} are {wing}",
)
# Two birds are said in few constructions, of both and of one at a time: who is where is learned late, the later the
# more ways there are to say it (docs/log.md). Each comes in both orders: one that comes in one order alone says by
# itself who is left.
TWO_ENGLISH = (
    "[|a picture of |two birds: ]a {left_body} [bird|{species}] on the left[, | and ]a {right_body}"
    " [bird|{species}|one] on the right[| {background}]",
    "[|a picture of |two birds: ]a {right_body} [bird|{species}] on the right[, | and ]a"
    " {left_body} [bird|{species}|one] on the left[| {background}]",
    "[|{background}, ]on the left [is |there is |]a {left_body} [bird|{species}][, | and ]on the"
    " right [is |there is |]a {right_body} [bird|{species}|one]",
    "[|{background}, ]on the right [is |there is |]a {right_body} [bird|{species}][, | and ]on the"
    " left [is |there is |]a {left_body} [bird|{species}|one]",
    "the left [bird|{species}|one] is {left_body}, the right [bird|{species}|one] is {right_body}",
    "the right [bird|{species}|one] is {right_body}, the left [bird|{species}|one] is {left_body}",
    "two {species}s[|, {background}]: {left_body} on the left, {right_body} on the right",
    "two {species}s[|, {background}]: {right_body} on the right, {left_body} on the left",
    "a {left_body} [bird|{species}] to the left of a {right_body} [bird|{species}|one][| {background}]",
    "a {right_body} [bird|{species}] to the right of a {left_body} [bird|{species}|one][| {background}]",
    "[there is|we see] a {right_body} [bird|{species}][| and], to the left of it, a {left_body} [bird|{species}|one]",
    "[there is|we see] a {left_body} [bird|{species}][| and], to the right of it, a {right_body} [bird|{species}|one]",
    "[near|next to] a {right_body} [bird|{species}], to its left[,| there is| is] a {left_body} [bird|{species}|one]",
    "[near|next to] a {left_body} [bird|{species}], to its right[,| there is| is] a {right_body} [bird|{species}|one]",
    "[two {species}s|two birds], {left_wing} wings on the left, {right_wing} wings on the right",
    "[two {species}s|two birds], {right_wing} wings on the right, {left_wing} wings on the left",
    "a {left_body} [bird|{species}] on the left",
    "a {right_body} [bird|{species}] on the right",
    "the left [bird|{species}|one] is {left_body}",
    "the right [bird|{species}|one] is {right_body}",
    "the left [bird|{species}|one] has {left_wing} wings",
    "the right [bird|{species}|one] has {right_wing} wings",
    "[a bird|a {species}|one] with {left_wing} wings on the left",
    "[a bird|a {species}|one] with {right_wing} wings on the right",
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
    "[|새 두 마리. |{background}, ]왼쪽에[|는] {left_body} [새|{species}][, |가 있고 ]"
    "오른쪽에[|는] {right_body} [새|{species}][|가 있다]",
    "[|새 두 마리. |{background}, ]오른쪽에[|는] {right_body} [새|{species}][, |가 있고 ]"
    "왼쪽에[|는] {left_body} [새|{species}][|가 있다]",
    "{left_body} [새|{species}]는 왼쪽에, {right_body} [새|{species}]는 오른쪽에 있다",
    "{right_body} [새|{species}]는 오른쪽에, {left_body} [새|{species}]는 왼쪽에 있다",
    "[새|{species}] 두 마리[|, {background}]. 왼쪽은 {left_body_shade}, 오른쪽은 {right_body_shade}",
    "[새|{species}] 두 마리[|, {background}]. 오른쪽은 {right_body_shade}, 왼쪽은 {left_body_shade}",
    "왼쪽 [새|{species}]는 {left_body_shade}, 오른쪽 [새|{species}]는 {right_body_shade}[|이다]",
    "오른쪽 [새|{species}]는 {right_body_shade}, 왼쪽 [새|{species}]는 {left_body_shade}[|이다]",
    "새 두 마리 중 왼쪽이 {left_body_shade}이고 오른쪽이 {right_body_shade}이다",
    "새 두 마리 중 오른쪽이 {right_body_shade}이고 왼쪽이 {left_body_shade}이다",
    "{right_body} [새|{species}] 왼쪽에 {left_body} [새|{species}]가 있다",
    "{left_body} [새|{species}] 오른쪽에 {right_body} [새|{species}]가 있다",
    "왼쪽 [새|{species}]는 {left_wing} 날개, 오른쪽 [새|{species}]는 {right_wing} 날개[|를 가졌다]",
    "오른쪽 [새|{species}]는 {right_wing} 날개, 왼쪽 [새|{species}]는 {left_wing} 날개[|를 가졌다]",
    "왼쪽 [새|{species}]는 {left_body_shade}이다",
    "오른쪽 [새|{species}]는 {right_body_shade}이다",
    "왼쪽에 {left_body} [새|{species}]가 있다",
    "오른쪽에 {right_body} [새|{species}]가 있다",
    "왼쪽 [새|{species}]는 {left_wing} 날개를 가졌다",
    "오른쪽 [새|{species}]는 {right_wing} 날개를 가졌다",
    "왼쪽에 {left_wing} 날개의 [새|{species}]가 있다",
    "오른쪽에 {right_wing} 날개의 [새|{species}]가 있다",
    "{background}에 [{species} 두 마리가 있다|있는 새 한 쌍]",
)
TWO_KOREAN_HELD_OUT = (
    "왼쪽 새는 {left_body_shade}이고 오른쪽 새는 {right_body_shade}이다",
    "오른쪽 새는 {right_body_shade}이고 왼쪽 새는 {left_body_shade}이다",
    "{species} 한 쌍, 왼쪽이 {left_body_shade}, 오른쪽이 {right_body_shade}",
    "{species} 한 쌍, 오른쪽이 {right_body_shade}, 왼쪽이 {left_body_shade}",
)
