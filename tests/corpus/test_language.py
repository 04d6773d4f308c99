"""Languages of short texts: the script decides where the model does not know."""

from __future__ import annotations

import pytest

from pipelines.stages.corpus.rules.identification import identify, model
from pipelines.stages.corpus.rules.scripts import LANGUAGES, weights

SHORT_CHINESE = """
米饭太硬了 汤有点咸 外卖送得很快 老板人很好 面条煮烂了 味道一般般 下次还会再来 豆浆不够热 包子皮太厚 送餐员态度差
今天下雨了 我不想上班 他昨天生病了 孩子在睡觉 请把门关上 你吃过饭没有 明天见 谢谢你的帮助 火车晚点了 钱包丢了
这本书真好看 音乐声太大 手机没电了 屏幕碎了 退货很麻烦 物流太慢 质量过得去 颜色不喜欢 尺寸偏小 客服不理人
股市大跌 房价上涨 球队输了比赛 总统发表讲话 专家提醒市民 警方正在调查 高考成绩公布 新车上市 医院床位紧张 地震无人伤亡
床前明月光 春眠不觉晓 学而时习之 天下大势 有志者事竟成 画蛇添足 守株待兔 一见钟情 水落石出 马到成功
""".split()  # noqa: SIM905 - fifty, one behind the other

TOLD_APART = [
    ("這家餐廳的服務很好", "zh"),
    ("颱風明天登陸臺灣", "zh"),
    ("我用iPhone手机拍照", "zh"),
    ("房价涨了20%", "zh"),
    ("优の良品很好吃", "zh"),
    ("我喜欢桜花的味道", "zh"),
    ("看这里 https://www.example.com/a/b/c?id=123456789&language=english", "zh"),
    ("有问题请写信到 service.department@english-company.example.com", "zh"),
    ("微信 WeChat", "zh"),
    ("GitHub Copilot 使用体验", "zh"),
    ("LeetCode 第 1 题 Two Sum", "zh"),
    ("用 Docker Compose 部署 Spring Boot 项目", "zh"),
    ("这是日语「ありがとう」的意思", "zh"),
    ("日语名为「東京タワー」，位于东京都港区芝公园", "zh"),
    ("他喜欢看アニメ", "zh"),
    ("簡体字の「这」は「這」です", "ja"),
    ("Windows 11 のインストール方法", "ja"),
    ("Visual Studio Code 사용법", "ko"),
    ("Обзор iPhone 15 Pro Max", "ru"),
    ("Zhang Wei (张伟) is a Chinese engineer", "en"),
    ("Tokyo (東京) is the capital of Japan", "en"),
    ("你喺邊度呀，我哋去食飯啦", "yue"),
    ("ありがとう", "ja"),
    ("カタカナ", "ja"),
    ("日本語を勉強しています", "ja"),
    ("iPhoneを買った", "ja"),
    ("東京の歴史", "ja"),
    ("経済産業省", "ja"),
    ("안녕하세요", "ko"),
    ("저는 KBS를 봅니다", "ko"),
    ("Привет, как дела?", "ru"),
    ("Доброго ранку, як справи?", "uk"),
    ("Καλημέρα", "el"),
    ("ΚΑΛΗΜΕΡΑ ΣΑΣ", "el"),
    ("שלום", "he"),
    ("مرحبا بالعالم", "ar"),
    ("سلام دنیا، حال شما چطور است؟", "fa"),
    ("สวัสดีครับ", "th"),
    ("नमस्ते दुनिया, आप कैसे हैं", "hi"),
    ("तुम्ही कसे आहात? मी ठीक आहे", "mr"),
    ("გამარჯობა", "ka"),
    ("Բարեւ", "hy"),
    ("ሰላም", "am"),
    ("வணக்கம்", "ta"),
    ("OK", "en"),
    ("Hello", "en"),
    ("THE COUNCIL OF THE CITY HAS DECIDED TO BUILD A NEW BRIDGE", "en"),
    ("TERMS AND CONDITIONS", "en"),
    ("THIS AGREEMENT IS MADE BETWEEN THE PARTIES", "en"),
    ("The Quick Brown Fox Jumps Over The Lazy Dog", "en"),
    ("ＨＥＬＬＯ ＷＯＲＬＤ ＡＮＤ ＡＬＬ", "en"),
    ("𝐇𝐞𝐥𝐥𝐨 𝐰𝐨𝐫𝐥𝐝, how are you", "en"),
    ("DIE WÜRDE DES MENSCHEN IST UNANTASTBAR", "de"),
    ("LIBERTÉ ÉGALITÉ FRATERNITÉ", "fr"),
    ("BUENOS DÍAS A TODOS", "es"),
    ("TÜRKİYE BÜYÜK MİLLET MECLİSİ", "tr"),
    ("12345 67,8 %", "und"),
    ("!!! ??? 😀", "und"),
    ("ᏣᎳᎩ", "und"),
]


def test_short_chinese_of_han_characters_alone_is_chinese() -> None:
    assert len(SHORT_CHINESE) == 50
    others = {text: identify(text) for text in SHORT_CHINESE if identify(text)[0] != "zh"}
    assert len(others) <= 1, others
    assert sum(identify(text)[1] >= 0.65 for text in SHORT_CHINESE) >= 49  # the rule's default


@pytest.mark.parametrize(("text", "code"), TOLD_APART)
def test_short_texts_are_of_a_language_of_their_script(text: str, code: str) -> None:
    name, score = identify(text)
    assert name == code
    assert 0 <= score <= 1


@pytest.mark.parametrize("text", ["ДОБРОЕ УТРО", "Здраво", "Как", "Да", "Добро утро", "Жыве Беларусь"])
def test_cyrillic_is_never_of_a_latin_language(text: str) -> None:
    assert identify(text)[0] in LANGUAGES["Cyrillic"]


def test_every_label_of_the_model_has_a_script() -> None:
    labels = {label.removeprefix("__label__") for label in model().predict("a b", k=-1)[0]}
    assert len(labels) > 150
    assert labels <= frozenset().union(*LANGUAGES.values())


def test_letters_are_weighed_by_script() -> None:
    assert weights("ab 用ñ") == {"Latin": 3, "Han": 3}
    assert weights("12,.") == weights("١٢٣") == {}
