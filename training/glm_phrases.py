"""What is asked and answered, in six languages. `{name}`, `{a}`, `{b}` are names of emoji, `{into}` is a language."""

INTO = {  # language of the question -> language asked for -> how that is said
    "en": {
        "en": "in English", "de": "in German", "fr": "in French", "es": "in Spanish", "it": "in Italian",
        "zh": "in Chinese",
    },
    "de": {
        "en": "auf Englisch", "de": "auf Deutsch", "fr": "auf Französisch", "es": "auf Spanisch",
        "it": "auf Italienisch", "zh": "auf Chinesisch",
    },
    "fr": {
        "en": "en anglais", "de": "en allemand", "fr": "en français", "es": "en espagnol", "it": "en italien",
        "zh": "en chinois",
    },
    "es": {
        "en": "en inglés", "de": "en alemán", "fr": "en francés", "es": "en español", "it": "en italiano",
        "zh": "en chino",
    },
    "it": {
        "en": "in inglese", "de": "in tedesco", "fr": "in francese", "es": "in spagnolo", "it": "in italiano",
        "zh": "in cinese",
    },
    "zh": {"en": "用英语", "de": "用德语", "fr": "用法语", "es": "用西班牙语", "it": "用意大利语", "zh": "用中文"},
}  # fmt: skip

QUESTIONS = {
    "name": {
        "en": ("What is this?", "What do you see?", "Which emoji is this?", "What is in the picture?"),
        "de": ("Was ist das?", "Was siehst du?", "Welches Emoji ist das?", "Was ist auf dem Bild?"),
        "fr": ("Qu'est-ce que c'est ?", "Que vois-tu ?", "Quel emoji est-ce ?", "Qu'y a-t-il sur l'image ?"),
        "es": ("¿Qué es esto?", "¿Qué ves?", "¿Qué emoji es este?", "¿Qué hay en la imagen?"),
        "it": ("Che cos'è?", "Cosa vedi?", "Che emoji è?", "Cosa c'è nell'immagine?"),
        "zh": ("这是什么？", "你看到了什么？", "这是哪个表情？", "图里有什么？"),
    },
    "name_into": {
        "en": ("What is this {into}?", "What is it called {into}?", "Name this {into}."),
        "de": ("Was ist das {into}?", "Wie heißt das {into}?"),
        "fr": ("Qu'est-ce que c'est {into} ?", "Comment dit-on cela {into} ?"),
        "es": ("¿Qué es esto {into}?", "¿Cómo se dice esto {into}?"),
        "it": ("Che cos'è {into}?", "Come si dice {into}?"),
        "zh": ("这个{into}怎么说？", "{into}叫什么？"),
    },
    "and_into": {
        "en": ("And {into}?", "Now {into}.", "And what is it {into}?"),
        "de": ("Und {into}?", "Jetzt {into}."),
        "fr": ("Et {into} ?", "Maintenant {into}."),
        "es": ("¿Y {into}?", "Ahora {into}."),
        "it": ("E {into}?", "Ora {into}."),
        "zh": ("{into}呢？", "现在{into}。"),
    },
    "translate": {
        "en": ("What is {name} {into}?", "How do you say {name} {into}?"),
        "de": ("Was heißt {name} {into}?", "Wie sagt man {name} {into}?"),
        "fr": ("Comment dit-on {name} {into} ?",),
        "es": ("¿Cómo se dice {name} {into}?",),
        "it": ("Come si dice {name} {into}?",),
        "zh": ("{name}{into}怎么说？",),
    },
    "count": {
        "en": ("How many are there?", "How many emoji are there?", "How many do you see?", "Count them."),
        "de": ("Wie viele sind es?", "Wie viele siehst du?", "Wie viele Emoji sind das?"),
        "fr": ("Combien y en a-t-il ?", "Combien en vois-tu ?"),
        "es": ("¿Cuántos hay?", "¿Cuántos ves?"),
        "it": ("Quanti sono?", "Quanti ne vedi?"),
        "zh": ("有几个？", "你看到几个？"),
    },
    "left": {
        "en": ("What is on the left?", "Which one is on the left?", "Which emoji is left?"),
        "de": ("Was ist links?", "Was siehst du links?"),
        "fr": ("Qu'y a-t-il à gauche ?", "Que vois-tu à gauche ?"),
        "es": ("¿Qué hay a la izquierda?", "¿Qué ves a la izquierda?"),
        "it": ("Cosa c'è a sinistra?", "Cosa vedi a sinistra?"),
        "zh": ("左边是什么？", "左边有什么？"),
    },
    "right": {
        "en": ("What is on the right?", "Which one is on the right?", "Which emoji is right?"),
        "de": ("Was ist rechts?", "Was siehst du rechts?"),
        "fr": ("Qu'y a-t-il à droite ?", "Que vois-tu à droite ?"),
        "es": ("¿Qué hay a la derecha?", "¿Qué ves a la derecha?"),
        "it": ("Cosa c'è a destra?", "Cosa vedi a destra?"),
        "zh": ("右边是什么？", "右边有什么？"),
    },
    "is": {
        "en": ("Is this {an}?", "Is there {an}?", "Do you see {an}?"),
        "de": ("Ist das {name}?", "Siehst du {name}?"),
        "fr": ("Est-ce {name} ?", "Vois-tu {name} ?"),
        "es": ("¿Es {name}?", "¿Ves {name}?"),
        "it": ("È {name}?", "Vedi {name}?"),
        "zh": ("这是{name}吗？", "有{name}吗？"),
    },
    "where": {
        "en": ("Where is the {name}?", "Show me where the {name} is."),
        "de": ("Wo ist {name}?",),
        "fr": ("Où est {name} ?",),
        "es": ("¿Dónde está {name}?",),
        "it": ("Dov'è {name}?",),
        "zh": ("{name}在哪里？",),
    },
    "colour": {
        "en": ("Which colour is the background?", "What colour is the background?"),
        "de": ("Welche Farbe hat der Hintergrund?",),
        "fr": ("De quelle couleur est le fond ?",),
        "es": ("¿De qué color es el fondo?",),
        "it": ("Di che colore è lo sfondo?",),
        "zh": ("背景是什么颜色？",),
    },
    "changed": {
        "en": ("What changed?", "What happens in the video?", "What is different at the end?"),
        "de": ("Was hat sich geändert?", "Was passiert im Video?"),
        "fr": ("Qu'est-ce qui a changé ?", "Que se passe-t-il dans la vidéo ?"),
        "es": ("¿Qué ha cambiado?", "¿Qué pasa en el vídeo?"),
        "it": ("Cosa è cambiato?", "Cosa succede nel video?"),
        "zh": ("有什么变化？", "视频里发生了什么？"),
    },
    "find": {
        "en": ("Find {an}.", "Find me a picture of {an}.", "Show me {an}.", "Look for {an}."),
        "de": ("Finde {name}.", "Zeig mir {name}.", "Suche {name}."),
        "fr": ("Trouve {name}.", "Montre-moi {name}."),
        "es": ("Busca {name}.", "Muéstrame {name}."),
        "it": ("Trova {name}.", "Mostrami {name}."),
        "zh": ("找{name}。", "给我看{name}。"),
    },
    "hello": {
        "en": ("Hello", "Hi!", "Hello!", "Good morning", "Who are you?", "What are you?", "What can you do?"),
        "de": ("Hallo", "Hallo!", "Guten Tag", "Wer bist du?", "Was kannst du?"),
        "fr": ("Bonjour", "Salut !", "Qui es-tu ?", "Que sais-tu faire ?"),
        "es": ("Hola", "¡Hola!", "¿Quién eres?", "¿Qué sabes hacer?"),
        "it": ("Ciao", "Ciao!", "Chi sei?", "Cosa sai fare?"),
        "zh": ("你好", "你好！", "你是谁？", "你会什么？"),
    },
    "other": {
        "en": (
            "Write a poem.", "What is the weather today?", "What is 2 + 2?", "Who is the president?", "Tell me a joke.",
            "What time is it?", "Write a Python program.", "Where is Paris?", "What is the capital of France?",
            "Who wrote Hamlet?", "Explain gravity.", "How old are you?", "Tell me a story.", "What is love?",
            "Give me a recipe.", "Who won the game?", "How do I cook rice?", "Summarise this text.", "Sing a song.",
            "What should I do today?", "What is the meaning of life?", "How far is the moon?", "Fix my code.",
            "Which stocks should I buy?", "Do you like music?", "When was the war?", "How tall is the tower?",
        ),
        "de": (
            "Schreib ein Gedicht.", "Wie wird das Wetter?", "Was ist 2 + 2?", "Wer ist Präsident?", "Wie spät ist es?",
            "Erzähl mir einen Witz.", "Wo liegt Paris?", "Wie koche ich Reis?", "Erkläre die Schwerkraft.",
        ),
        "fr": (
            "Écris un poème.", "Quel temps fait-il ?", "Combien font 2 + 2 ?", "Qui est le président ?",
            "Quelle heure est-il ?", "Raconte une blague.", "Où est Paris ?", "Donne-moi une recette.",
        ),
        "es": (
            "Escribe un poema.", "¿Qué tiempo hace?", "¿Cuánto es 2 + 2?", "¿Quién es el presidente?",
            "¿Qué hora es?", "Cuéntame un chiste.", "¿Dónde está París?", "Dame una receta.",
        ),
        "it": (
            "Scrivi una poesia.", "Che tempo fa?", "Quanto fa 2 + 2?", "Chi è il presidente?", "Che ora è?",
            "Raccontami una barzelletta.", "Dov'è Parigi?", "Dammi una ricetta.",
        ),
        "zh": (
            "写一首诗。", "今天天气怎么样？", "二加二等于几？", "总统是谁？", "现在几点？", "讲个笑话。",
            "巴黎在哪里？",
        ),
    },
}  # fmt: skip

ANSWERS = {
    "yes": {"en": "Yes.", "de": "Ja.", "fr": "Oui.", "es": "Sí.", "it": "Sì.", "zh": "是的。"},
    "no": {"en": "No.", "de": "Nein.", "fr": "Non.", "es": "No.", "it": "No.", "zh": "不是。"},
    "hello": {
        "en": "Hello! I am a small model. I know emoji.",
        "de": "Hallo! Ich bin ein kleines Modell. Ich kenne Emoji.",
        "fr": "Bonjour ! Je suis un petit modèle. Je connais les emoji.",
        "es": "¡Hola! Soy un modelo pequeño. Conozco los emoji.",
        "it": "Ciao! Sono un piccolo modello. Conosco le emoji.",
        "zh": "你好！我是小模型。我认识表情。",
    },
    "other": {
        "en": "I only know emoji.",
        "de": "Ich kenne nur Emoji.",
        "fr": "Je ne connais que les emoji.",
        "es": "Solo conozco los emoji.",
        "it": "Conosco solo le emoji.",
        "zh": "我只认识表情。",
    },
    "empty": {
        "en": "I see no emoji.",
        "de": "Ich sehe kein Emoji.",
        "fr": "Je ne vois pas d'emoji.",
        "es": "No veo ningún emoji.",
        "it": "Non vedo nessuna emoji.",
        "zh": "我没看到表情。",
    },
    "found": {
        "en": "Here it is: {file}",
        "de": "Hier ist es: {file}",
        "fr": "Le voici : {file}",
        "es": "Aquí está: {file}",
        "it": "Eccolo: {file}",
        "zh": "在这里：{file}",
    },
    "missing": {
        "en": "I found nothing.",
        "de": "Ich habe nichts gefunden.",
        "fr": "Je n'ai rien trouvé.",
        "es": "No encontré nada.",
        "it": "Non ho trovato nulla.",
        "zh": "没有找到。",
    },
    "no_tool": {
        "en": "I cannot search here.",
        "de": "Ich kann hier nicht suchen.",
        "fr": "Je ne peux pas chercher ici.",
        "es": "Aquí no puedo buscar.",
        "it": "Qui non posso cercare.",
        "zh": "我不能搜索。",
    },
    "background": {
        "en": "The background turned {colour}.",
        "de": "Der Hintergrund wurde {colour}.",
        "fr": "Le fond est devenu {colour}.",
        "es": "El fondo se volvió {colour}.",
        "it": "Lo sfondo è diventato {colour}.",
        "zh": "背景变成了{colour}。",
    },
    "became": {
        "en": "The {a} became {an}.",
        "de": "{a} wurde zu {b}.",
        "fr": "{a} est devenu {b}.",
        "es": "{a} se convirtió en {b}.",
        "it": "{a} è diventato {b}.",
        "zh": "{a}变成了{b}。",
    },
    "appeared": {
        "en": "The {b} appeared.",
        "de": "{b} erschien.",
        "fr": "{b} est apparu.",
        "es": "{b} apareció.",
        "it": "{b} è apparso.",
        "zh": "{b}出现了。",
    },
    "vanished": {
        "en": "The {a} disappeared.",
        "de": "{a} verschwand.",
        "fr": "{a} a disparu.",
        "es": "{a} desapareció.",
        "it": "{a} è scomparso.",
        "zh": "{a}消失了。",
    },
    "same": {
        "en": "Nothing changed.",
        "de": "Nichts hat sich geändert.",
        "fr": "Rien n'a changé.",
        "es": "Nada ha cambiado.",
        "it": "Non è cambiato nulla.",
        "zh": "没有变化。",
    },
}

COLOURS = {
    "white": {"en": "white", "de": "weiß", "fr": "blanc", "es": "blanco", "it": "bianco", "zh": "白色"},
    "black": {"en": "black", "de": "schwarz", "fr": "noir", "es": "negro", "it": "nero", "zh": "黑色"},
    "red": {"en": "red", "de": "rot", "fr": "rouge", "es": "rojo", "it": "rosso", "zh": "红色"},
    "green": {"en": "green", "de": "grün", "fr": "vert", "es": "verde", "it": "verde", "zh": "绿色"},
    "blue": {"en": "blue", "de": "blau", "fr": "bleu", "es": "azul", "it": "blu", "zh": "蓝色"},
    "yellow": {"en": "yellow", "de": "gelb", "fr": "jaune", "es": "amarillo", "it": "giallo", "zh": "黄色"},
}


def with_article(name: str) -> str:
    """English: "cat" -> "a cat", "books" -> "books"."""
    if name.endswith("s") and name not in ("cactus", "octopus", "bus", "rhinoceros", "dress"):
        return name
    vowel = name[:1].lower() in ("a", "e", "i", "o") or name == "umbrella"
    return f"{'an' if vowel else 'a'} {name}"


def said(template: str, language: str, **values: str) -> str:
    """A phrase with its names; `{an}` is the name, or `b`, with an English article."""
    spoken = {"an": with_article(values.get("name") or values.get("b") or "") if language == "en" else "", **values}
    text = template.format(**spoken)
    return text[:1].upper() + text[1:] if template[:1] == "{" and language != "zh" else text
