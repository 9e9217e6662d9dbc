"""Words around a sound's name that say nothing of it: sentences, fillers, invented words; some of them held out."""

import numpy as np

# Sentences that carry a name.
CARRIERS = {
    "en": (
        *("hear {}", "listen to {}", "find {}, please", "this is {}", "that is {}", "it sounds like {}"),
        *("search for {}", "an audio clip of {}", "someone records {}", "there is {} in the background"),
        *("{} outside", "we heard {} last night", "where is {}?", "play me {}", "{} in the distance"),
        *("{} in this file", "only {}", "do they hear {}?", "my favourite sound is {}", "what does {} sound like"),
        *("the one with {} in it", "some {}"),
    ),
    "de": (
        *("höre {}", "hör mal, {}", "das ist {}", "es klingt wie {}", "ein Klang wie {}", "wo ist {}?"),
        *("{} im Hintergrund", "ich höre {}", "wir hörten {} am Abend", "{} draußen", "{} in der Ferne"),
        *("spiel mir {} vor", "nur {}", "Tonaufnahme von {}", "die Datei mit {}", "zeig mir {}"),
        *("jemand nimmt {} auf", "so klingt {}"),
    ),
    "fr": (
        *("écoute {}", "j'entends {}", "c'est {}", "voilà {}", "cela ressemble à {}", "où est {} ?", "{} au loin"),
        *("{} en arrière-plan", "{} dehors", "montre-moi {}", "le fichier avec {}", "seulement {}"),
        *("nous entendions {} la nuit", "quelqu'un enregistre {}", "audio : {}", "il y a {}", "trouve-moi {}"),
    ),
    "es": (
        *("escucha {}", "oigo {}", "esto es {}", "suena como {}", "¿dónde está {}?", "{} a lo lejos"),
        *("{} de fondo", "{} afuera", "muéstrame {}", "el archivo con {}", "solo {}", "alguien graba {}", "hay {}"),
        *("oíamos {} de noche", "audio: {}", "quiero oír {}", "encuentra {}", "el sonido de {}"),
    ),
    "zh": (
        *("我听到{}", "这是{}", "有{}", "播放{}", "听起来像{}", "{}在哪里", "远处的{}", "背景里有{}", "外面的{}"),
        *("只有{}", "给我看{}", "有人录下{}", "音频：{}", "我想听{}", "那个文件里有{}", "晚上听见{}", "一段{}"),
    ),
    "ja": (
        *("{}を聞く", "これは{}です", "{}のような音", "{}はどこ", "遠くの{}", "背景に{}", "外で{}", "{}だけ"),
        *("{}を再生", "{}を見せて", "誰かが{}を録音する", "音声：{}", "{}が聞きたい", "{}のファイル"),
        *("夜に{}が聞こえた", "{}がある"),
    ),
}
# Never trained, as the last templates of clap_texts.py; most of their words stand in no training text.
HELD_OUT_CARRIERS = {
    "en": ("you hear {}", "very loud {}", "there must be {} somewhere nearby", "yesterday somebody noticed {}"),
    "de": ("bitte suche {}", "irgendwo bei uns {}", "gestern aufgenommen: {}", "{} ziemlich laut"),
    "fr": ("cherche {} s'il te plaît", "quelque part {}", "{} très fort", "hier ma sœur enregistra {}"),
    "es": ("busca {} por favor", "{} muy fuerte", "ayer grabamos {}", "en algún lugar cercano {}"),
    "zh": ("请找{}", "附近的{}", "昨天录的{}", "{}非常响"),
    "ja": ("{}を探して", "近くで{}", "昨日の{}", "とても大きな{}"),
}
FILLERS = {
    "en": (
        *("quiet strange new big distant nice short long soft bright early late first last next best real same"),
        *(" now then again today always never maybe quite really still almost often just also too now once twice"),
        *(" both my our their his her your this that these those each another many few all none no not more less"),
        *(" other every is was are has had does makes takes gets goes comes sees knows wants needs gives says"),
        *(" asks works stays in on at from near under behind before after until since without against between"),
        *(" because although when why which people friend neighbour kitchen office country summer winter morning"),
        *(" evening week year hour minute million percent market school story colour paper system company"),
        *(" government theory history language grammar future energy"),
    ),
    "de": (
        *("leise seltsam alt neu klein groß fern schön kurz lang weich früh spät jetzt dann wieder heute immer"),
        *(" nie oft vielleicht noch auch nur sehr mein unser dieser jeder viele wenig alle kein mehr andere ist"),
        *(" war hat macht kommt sieht weiß will braucht gibt sagt fragt in auf an von unter hinter vor nach ohne"),
        *(" gegen weil warum welche Leute Freund Nachbar Küche Büro Land Sommer Winter Morgen Woche Jahr Stunde"),
        *(" Prozent Markt Schule Geschichte Frage Antwort Zahl Farbe Papier Beispiel Firma Regierung Vertrag"),
        *(" Sprache Zukunft Termin"),
    ),
    "fr": (
        *("calme étrange nouveau grand lointain beau court long doux tôt tard maintenant encore toujours jamais"),
        *(" souvent peut-être aussi mon notre ce chaque plusieurs tous aucun plus autre est était fait prend va"),
        *(" vient voit sait veut dit demande dans sur sous derrière avant après sans contre pourquoi quand gens"),
        *(" ami voisin cuisine bureau pays été hiver matin semaine année heure marché école histoire réponse"),
        *(" nombre couleur papier exemple société gouvernement contrat langue avenir système idée"),
    ),
    "es": (
        *("tranquilo extraño viejo nuevo pequeño grande lejano bonito corto largo suave temprano tarde ahora"),
        *(" otra vez siempre nunca quizás también mi nuestro este cada muchos todos ningún más otro es era tiene"),
        *(" hace toma va viene ve sabe quiere dice pregunta en sobre bajo detrás antes después sin contra cuando"),
        *(" gente amigo vecino cocina oficina país verano invierno mañana semana año hora mercado escuela"),
        *(" historia pregunta color papel ejemplo empresa gobierno contrato lengua futuro reunión sistema razón"),
        *(" problema"),
    ),
    "zh": (
        *("安静的 奇怪的 旧的 新的 小小的 远远的 漂亮的 短短的 长长的 现在 然后 又 今天 总是 从不 也许 还 也 很"),
        *(" 我的 我们 他们 这个 那个 每个 许多 所有 没有 更多 其他 是 做 去 来 看 知道 想要 需要 给 说 问 从 下面"),
        *(" 后面 之前 之后 因为 为什么 什么 人们 朋友 邻居 厨房 办公室 国家 夏天 冬天 早上 星期 小时 百分之 市场"),
        *(" 学校 历史 问题 回答 数字 颜色 纸 例子 公司 政府 合同 语言 未来 系统 想法 科学 理由"),
    ),
    "ja": (
        *("静かな 不思議な 古い 新しい 小さい 遠い きれいな 短い 長い 今 それから また 今日 いつも たぶん まだ"),
        *(" 私の 私たち この その どの たくさん すべて もっと ほかの です だった 行く 来る 見る 知る ほしい"),
        *(" くれる 言う 後ろ 前 あと なぜ 何 人々 友達 隣 台所 会社 国 夏 冬 朝 週 年 時間 分 市場 学校 歴史 質問"),
        *(" 答え 数 色 紙 例 政府 契約 言語 未来 仕組み 考え 科学 理由 問題 計画 予定 値段"),
    ),
}
WORDS = {language: tuple("".join(words).split()) for language, words in FILLERS.items()}
ONSETS = (
    *("", "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br", "ch", "cl"),
    *("dr", "fl", "gr", "pl", "pr", "qu", "sch", "sh", "sp", "st", "str", "th", "tr"),
)
VOWELS = ("a", "e", "i", "o", "u", "a", "e", "i", "o", "ai", "au", "ea", "ee", "ei", "ie", "io", "oo", "ou", "ue", "y")
CODAS = ("", "", "", "", "n", "r", "s", "t", "l", "m", "d", "ck", "ng", "nd", "nt", "st", "rt", "x", "p", "ge", "ble")
ENDS = (".", "!", "?", ",", "...", ":", ";", " -", "。", "！")


def unknown_word(language: str, rng: np.random.Generator) -> str:
    """A filler, or a word that does not exist; of Chinese and Japanese, often of characters drawn evenly."""
    chance = rng.random()
    if chance < 0.4:
        return WORDS[language][rng.integers(len(WORDS[language]))]
    if language in ("zh", "ja") and chance < 0.9:
        kana = language == "ja" and rng.random() < 0.5
        first, last = (0x3042, 0x3094) if kana else (0x4E00, 0x9FA0)
        return "".join(chr(n) for n in rng.integers(first, last, size=rng.integers(1, 4)))
    syllables = range(rng.integers(1, 4))
    return "".join(kind[rng.integers(len(kind))] for _ in syllables for kind in (ONSETS, VOWELS, CODAS))


def surround(text: str, language: str, rng: np.random.Generator) -> str:
    """One to three unknown words before, after or between the words of a text."""
    gap = "" if language in ("zh", "ja") else " "
    words = text.split(" ")
    for _ in range(rng.integers(1, 4)):
        place = (0, len(words), rng.integers(len(words) + 1))[rng.integers(3)]
        words.insert(place, unknown_word(language, rng))
    return gap.join(words)


def carry(text: str, language: str, rng: np.random.Generator) -> str:
    """The text in a sentence, among unknown words, or both; one in four with a mark at its end."""
    chance = rng.random()
    if chance < 0.7:
        text = surround(text, language, rng)
    if chance > 0.4:
        carriers = CARRIERS[language]
        text = carriers[rng.integers(len(carriers))].format(text)
    return text + ENDS[rng.integers(len(ENDS))] if rng.random() < 0.25 else text
