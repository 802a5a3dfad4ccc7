# ruff: noqa: RUF001  (these letters are meant)
"""Words of the demo: names, places and sentences in many scripts, and the strings that break exporters.

Nobody here is a real person: names are drawn from short lists of common ones and addresses end in
``example.org``. Documents belong in ``shapes``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Locale:
    """How people of one country are called and what they write."""

    language: str
    country: str
    cities: tuple[str, ...]
    given: tuple[str, ...]
    family: tuple[str, ...]
    comments: tuple[str, ...]
    searches: tuple[str, ...]
    family_first: bool = False

    def full_name(self, given: str, family: str) -> str:
        """Put the two names in the order of this country."""
        return f"{family} {given}" if self.family_first else f"{given} {family}"


LOCALES: tuple[Locale, ...] = (
    Locale(
        "en",
        "GB",
        ("Leeds", "Bristol", "Cardiff"),
        ("Alice", "Grace", "Harry", "Oliver"),
        ("Baker", "Hill", "Turner", "O'Neill"),
        ("Fast and clear, thank you.", "It logs me out every morning.", 'The "save" button does nothing 😕'),
        ("rain jacket", "running shoes 42", "gift card"),
    ),
    Locale(
        "de",
        "DE",
        ("Köln", "Görlitz", "München"),
        ("Jörg", "Lena", "Björn", "Anneliese"),
        ("Müller", "Groß", "Schäfer", "Weiß"),
        ("Übersichtlich und schnell.", "Die Schriftgröße lässt sich nicht ändern.", "Läuft flüssig, weiter so!"),
        ("Regenjacke", "Größe 42", "Geschenkgutschein für Mädchen"),
    ),
    Locale(
        "pt",
        "BR",
        ("São Paulo", "Belém", "Maceió"),
        ("João", "Inês", "Antônio", "Conceição"),
        ("Araújo", "Simões", "Magalhães", "Conceição"),
        ("Muito bom, recomendo!", "Não consigo alterar o endereço.", "Ótimo aplicativo 👏🏽"),
        ("tênis de corrida", "cartão-presente", "calça"),
    ),
    Locale(
        "tr",
        "TR",
        ("İzmir", "Eskişehir", "Iğdır"),
        ("Işıl", "Çağrı", "İpek", "Oğuz"),
        ("Yıldız", "Öztürk", "Şahin", "Güneş"),
        ("Çok kullanışlı bir uygulama.", "Bildirimler geç geliyor.", "Işık modu gözümü yoruyor."),
        ("yağmurluk", "koşu ayakkabısı", "hediye çeki"),
    ),
    Locale(
        "el",
        "GR",
        ("Αθήνα", "Θεσσαλονίκη", "Ηράκλειο"),
        ("Ελένη", "Νίκος", "Σοφία", "Γιώργος"),
        ("Παπαδοπούλου", "Νικολάου", "Γεωργίου"),
        ("Εύχρηστη εφαρμογή.", "Αργεί να ανοίξει ο χάρτης.", "Ευχαριστώ για τη βοήθεια!"),
        ("αδιάβροχο", "παπούτσια", "δωροκάρτα"),
    ),
    Locale(
        "ru",
        "KZ",
        ("Алматы", "Астана", "Шымкент"),
        ("Айгуль", "Борис", "Елена", "Тимур"),
        ("Соколова", "Кузнецов", "Ахметова"),
        ("Всё работает быстро, спасибо.", "Не приходит код подтверждения.", "Ёмко и понятно 👍"),
        ("дождевик", "кроссовки", "подарочная карта"),
    ),
    Locale(
        "ar",
        "EG",
        ("القاهرة", "الإسكندرية", "أسوان"),
        ("فاطمة", "يوسف", "مريم", "كريم"),
        ("النجار", "الحداد", "منصور"),
        ("التطبيق سريع وسهل الاستخدام.", "لا أستطيع تغيير كلمة المرور؟", "شكرًا جزيلًا، ممتاز!"),
        ("معطف مطر", "حذاء رياضي ٤٢", "بطاقة هدية"),
    ),
    Locale(
        "he",
        "IL",
        ("חיפה", "אילת", "באר שבע"),
        ("נועה", "דניאל", "יעל"),
        ("מזרחי", "פרידמן", "ביטון"),
        ("אפליקציה נוחה ומהירה.", "ההתראות מגיעות באיחור (5 דקות).", "תודה רבה!"),
        ("מעיל גשם", "נעלי ריצה", "כרטיס מתנה"),
    ),
    Locale(
        "hi",
        "IN",
        ("वाराणसी", "जयपुर", "इंदौर"),
        ("अनन्या", "रोहन", "प्रिया", "कृष्ण"),
        ("शर्मा", "वर्मा", "त्रिपाठी"),
        ("बहुत अच्छा ऐप है।", "भुगतान के बाद रसीद नहीं मिली।", "धन्यवाद 🙏"),
        ("रेनकोट", "दौड़ने के जूते", "उपहार कार्ड"),
    ),
    Locale(
        "th",
        "TH",
        ("เชียงใหม่", "ภูเก็ต", "ขอนแก่น"),
        ("สมหญิง", "ณัฐพล", "กมลวรรณ"),
        ("ใจดี", "แสงทอง", "ศรีสุข"),
        ("ใช้งานง่ายมาก", "แผนที่โหลดช้าเกินไป", "ขอบคุณครับ 😊"),
        ("เสื้อกันฝน", "รองเท้าวิ่ง", "บัตรของขวัญ"),
    ),
    Locale(
        "zh",
        "CN",
        ("成都", "西安", "厦门"),
        ("小红", "建国", "雨桐"),
        ("王", "李", "欧阳"),
        ("界面清晰，速度很快。", "昨天付款以后没有收到收据！", "希望增加夜间模式🌙"),
        ("雨衣", "跑步鞋 42码", "礼品卡"),
        family_first=True,
    ),
    Locale(
        "ja",
        "JP",
        ("札幌", "金沢", "那覇"),
        ("さくら", "健太", "ユイ"),
        ("佐藤", "髙橋", "渡邊"),
        ("とても使いやすいです。", "通知が届きません。", "動作が軽くて助かります😊"),
        ("レインコート", "ランニングシューズ", "ギフトカード"),
        family_first=True,
    ),
    Locale(
        "ko",
        "KR",
        ("부산", "대전", "제주"),
        ("서연", "민준", "하은"),
        ("김", "박", "최"),
        ("빠르고 편리해요.", "로그인이 자꾸 풀립니다.", "감사합니다 ❤️"),
        ("비옷", "운동화", "상품권"),
        family_first=True,
    ),
    Locale(
        "vi",
        "VN",
        ("Đà Nẵng", "Huế", "Cần Thơ"),
        ("Hương", "Đức", "Thủy"),
        ("Nguyễn", "Trần", "Phạm"),
        ("Ứng dụng rất dễ dùng.", "Bản đồ tải chậm quá.", "Cảm ơn nhiều!"),
        ("áo mưa", "giày chạy bộ", "thẻ quà tặng"),
        family_first=True,
    ),
)

HARD_TEXTS: dict[str, str] = {
    "empty": "",
    "spaces": "   ",
    "nul_inside": "before\0after",
    "newlines": "one\ntwo\r\nthree\rfour\n",
    "line_separators": "one\u2028two\u2029three\u0085four",
    "controls": "".join(map(chr, range(1, 32))) + "\x7f\x9f",
    "quotes": "\"double\" 'single' `back` \\ \\\\ \\n \\u0000 /",
    "json_inside": '{"a": [1, {"$oid": "x"}], "b": "]"}\n',
    "csv_inside": '=1+1,"a";b\tc',
    "html_inside": "<script>alert('&amp;')</script>",
    "byte_order_mark": "\ufeffstarts with one",
    "not_characters": "\ufffe\uffff\ufffd\U0010ffff",
    "emoji": "\U0001f469\U0001f3fd\u200d\U0001f680 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1fa\U0001f1f3 1\ufe0f\u20e3",
    "combining": "Z\u0351\u036b\u0343a\u0304\u0301l\u0334g\u0321o\u0315 e\u0301 \u00e9",
    "right_to_left": "abc \u202eשלום مرحبا\u202c def \u200f\u061c!",
    "zero_width": "zero\u200bwidth\u200cjoin\u200der\u2060\u00ad",
    "beyond_the_basic_plane": "𠜎𝔘𝕟𝕚𓀀𐍈",
    "many_scripts": "English עברית العربية हिन्दी ไทย 中文 日本語 한국어 Ελληνικά Русский ქართული አማርኛ",
    "looks_like_a_number": "0123.50e1",
    "looks_like_nothing": "null",
    "long": "Ein sehr langer Text, 很长的文本, نص طويل. " * 1_200,
}
