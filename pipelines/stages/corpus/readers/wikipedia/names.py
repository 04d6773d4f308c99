"""Names of templates of the large Wikipedias, in lower case, by what they show. Two blanks divide them."""

from __future__ import annotations

import re


def listed(text: str) -> list[str]:
    """The names of a table."""
    return list(filter(None, re.split(r"(?: {2,}|\n)\s*", text)))


# Shown as their first value.
PASSED = """
nowrap  nobr  nobreak  nobold  nowraplinks  noitalic  noitalics  normal  avoid wrap  j  wrap  no wrap  nwr  nw
small  smaller  big  bigger  larger  large  huge  resize  midsize  normalsize  smalldiv  tiny  petit  em  strong
bold  italic  italics  underline  overline  overbar  strike  sc  sc1  sc2  smallcaps  small caps  smallcaps all
allcaps  lc  caps  petites capitales  pc  kapitälchen  versaliten  maiuscoletto  aut  abbr  abbrev  abbreviation
abbrv  tooltip  hint  define  abréviation  abreviatura  comment  comm  подсказка  acronym  h:title  explain
abbrlink  popup  tt  abk  abkürzung  explicação  dica  code  mono  kbd  samp  var  monospace  plain text  math  mvar
bigmath  math var  mathvar  serif  sans-serif  mathcal  mathbf  bb  vec  hat  tilde  unicode  polytonic  iast
hebrew  hebr  arabic  arab  grek  gr  cjk  iso 15919  syriac  armenian  thai  devanagari  persian  urdu  ethiopic
polytonisch  dmg  angbr ipa  citation needed span  cn span  cnspan  clarify span  dubious span  who span  fact span
refnec  нет аи 2  référence nécessaire  référence souhaitée  cita requerida span  pas clair  passage promotionnel
flag  flagcountry  flagu  flag+link  noflag  flaglink  drapeau2  pays  bandera2  флагификация  국기  국기나라  旗帜
visible anchor  vanchor  visanc  visanch  visibleanchor  as written  as is  proper name  chem name  nts
number table sorting  formatprice  format price  num  число  nombre  nb  zahl  birth-date  death-date  start-date
end-date  birth-date and age  date unlinked  nihongo2  kanji  hangul  zh-hans  zh-hant  僻字  拼音  注音  lj  vr
phoneme  grapheme  textoben  xt  mxt  !xt  tq  ens  frs  las  its  ess  rus  grcs  els  ars  zhs  jas  pls  css  nls
svs  trs  hus  pts  small text  green  red  dfn  term  glossary link
"""

# Shown as their last value.
LAST = """
lang  langue  transl  transliteration  rtl-lang  ltr-lang  native name  native phrase  langr  llang  한자  script
script/hebrew  font color  font colour  color  colour  colored text  coloured text  background color  fontcolor
farbe  текст цветом  hover title  sort  align  legend  legend0  columns-list
"""

JOINED = "linktext  not a typo  notatypo  tutto attaccato"

BLOCKS = """
block indent  blockindent  bi  indent  center  centre  centered text  right  left  pre  flatlist  plainlist
plain list  flowlist  div col  zentriert  centrer  centrar  defn  ghat
"""

LISTS = """
ubl  unbulleted list  ublist  ubt  unbullet  bulleted list  blist  ulist  bullet list  ordered list  numbered list
olist  nlist  enumerated list  liste éléments  lista sin viñetas
"""

INLINE_LISTS = "hlist  horizontal list  liste horizontale  lista horizontal"
COMMA_LISTS = "comma separated entries  cslist  csl  comma-separated list"

QUOTES = """
quote  blockquote  bquote  quotation  cquote  rquote  quote box  quotebox  bq  pull quote  pullquote  quotation box
centered pull quote  poemquote  poem quote  qb  block quote  long quote  imagequote  zitat  "  inschrift
citation bloc  début citation bloc  citação  cita bloque  citazione  cytat  citaat  цитата  цитата2  引用  引文
quote frame  bloc citation  verse translation  poème  quotation1  citation étrangère  cita
"""

CONVERT = "convert  cvt  converter  unidades  convertir"
QUANTITY = "unité  unite  unidad  unit  m  fmtn  fmt"
FRACTIONS = "frac  sfrac  fraction  fract  bruch  fracc  frc  tfrac  ufrac  fracción  дробь  分数"
SUBSCRIPT, SUPERSCRIPT = "sub  ind  subscript  indice  unten", "sup  exp  superscript  exposant  oben  smallsup"

DATES = """
birth date  birth date and age  bda  dob and age  birth year and age  bya  birth based on age as of date  start date
start date and age  end date  film date  dts  date  datedts  date table sorting  fecha  data  dtlink  дата  date-
datte  date de naissance  date de décès  death date  death year  geburtsdatum  生年月日と年齢
fecha de nacimiento  start and end dates  release date  launch date  opdrts  bday  birthdate  deathdate
birth date and age2  生年月日  出生日期和年龄  出生日期及年齡  出生日期  死亡日期  fecha de inicio
data de nascimento  data de nascimento e idade  年月日
"""
DEATHS = """
death date and age  dda  death year and age  dya  死亡年月日と没年齢  死亡日期和年龄  死亡日期及年齡  fallecimiento
morte
"""

ELSEWHERE = """
ill  interlanguage link  illm  ill2  link-interwiki  interlanguage link multi  red link  iw  lien  仮リンク
enlace interwiki  ill-wd  ill-wd2  interlanguage link wikidata  redwd
"""
LINK_AND_LABEL = """
link-en  le  link-ja  link-de  link-fr  link-ru  link-es  link-it  link-ko  link-pt  link-nl  link-vi  link-pl
link-sv  link-la  link-wd  lkwd  internal link helper/en  internal link helper/ja  internal link helper/de
"""

SIGNS = {
    "ndash": "–", "en dash": "–", "endash": "–", "nsndns": "–", "mdash": "—", "em dash": "—",
    "emdash": "—", "--": "—", "snd": " – ", "spnd": " – ", "sndash": " – ", "spaced ndash": " – ",
    "spaced en dash": " – ", "dash": " – ", "spaced mdash": " — ", "smdash": " — ",
    "spaced em dash": " — ", "nbsp": " ", "space": " ", "spaces": " ", "spc": " ", "thinsp": " ",
    "thin space": " ", "hairsp": " ", "hair space": " ", "nnbsp": " ", "gap": " ", "pad": " ",
    "padlsup": " ", "em space": " ", "emsp": " ", "ensp": " ", "en space": " ", "in5": " ",
    "indent5": " ", "nbs": " ", "zwsp": "", "zwj": "", "zwnj": "", "shy": "", "wbr": "",
    "thinspace": " ", "!": "|", "pipe": "|", "=": "=", "equals": "=", "'": "'", "\"": "\"",
    "'\"": "'\"", "\"'": "\"'", "' \"": "' \"", "-'": "'", "-\"": "\"", "'-": "'", "\"-": "\"",
    "'s": "'s", "(": "{", ")": "}", "((": "{{", "))": "}}", "[": "[", "]": "]", "(!": "{|", "!)": "|}",
    "·": " · ", "•": " • ", "dot": " · ", "middot": " · ", "bull": " • ", "bullet": " • ", "\\": " / ",
    "slash": "/", "colon": ":", "*": "*", "asterisk": "*", "hash": "#", "number sign": "#",
    "dagger": "†", "†": "†", "double-dagger": "‡", "double dagger": "‡", "pi": "π", "tau": "τ",
    "phi": "φ", "times": "×", "minus": "−", "plusminus": "±", "±": "±", "eqm": " ⇌ ", "numero": "№",
    "infin": "∞", "1/2": "1/2", "1/3": "1/3", "2/3": "2/3", "1/4": "1/4", "3/4": "3/4", "degree": "°",
    "deg": "°", "copyright": "©", "trademark": "™", "ell": "ℓ", "hbar": "ħ", "half": "1/2", "br": "\n",
    "break": "\n", "crlf": "\n", "crlf2": "\n", "nl": "\n", "-br": "\n", "clr": "\n",
    "paragraph break": "\n\n", "pb": "\n\n", "1er": "1er", "er": "er", "re": "re", "ère": "ère",
    "ème": "e", "nde": "nde", "nd": "nd", "ier": "Ier", "ire": "Ire", "mme": "Mme", "mlle": "Mlle",
    "mgr": "Mgr", "m.": "M.", "dr.": "Dr", "n°": "no", "no": "no", "nos": "nos", "n°s": "nos",
    "av jc": "av. J.-C.", "av. j.-c.": "av. J.-C.", "ap. j.-c.": "apr. J.-C.", "ac": "a. C.",
    "dc": "d. C.", "bc": "BC", "bce": "BCE", "ce": "CE", "ad": "AD", "co2": "CO2", "h2o": "H2O",
    "nh3": "NH3", "ch4": "CH4", "circa": "c.", "eur": "€", "okina": "ʻ", "hamza": "ʾ", "ayin": "ʿ",
    "sharp": "♯", "flat": "♭", "natural": "♮", "prime": "′", "pprime": "″", "d'": "d'",
}  # fmt: skip

CURRENCIES = {
    "usd": "US$", "us$": "US$", "$": "$", "gbp": "£", "£": "£", "gbp2": "£", "pound sterling": "£",
    "eur": "€", "euro": "€", "€": "€", "inr": "₹", "₹": "₹", "indian rupee": "₹", "rupee": "₹",
    "pkr": "₨", "lkr": "Rs", "jpy": "¥", "¥": "¥", "yen": "¥", "cny": "CN¥", "rmb": "RMB", "cad": "CA$",
    "c$": "CA$", "cad$": "CA$", "aud": "A$", "au$": "A$", "a$": "A$", "nzd": "NZ$", "nz$": "NZ$",
    "hkd": "HK$", "hk$": "HK$", "sgd": "S$", "twd": "NT$", "nt$": "NT$", "ntd": "NT$", "krw": "₩",
    "won": "₩", "rub": "₽", "ruble": "₽", "₽": "₽", "rur": "₽", "chf": "CHF ", "sek": "SEK ",
    "nok": "NOK ", "dkk": "DKK ", "pln": "PLN ", "brl": "R$", "r$": "R$", "mxn": "MX$", "php": "₱",
    "peso": "₱", "₱": "₱", "thb": "฿", "try": "₺", "tl": "₺", "uah": "₴", "ils": "₪", "nis": "₪",
    "zar": "R", "ngn": "₦", "naira": "₦", "vnd": "₫", "idr": "Rp", "myr": "RM", "rm": "RM",
    "kes": "KSh", "egp": "E£", "aed": "AED ", "sar": "SAR ", "irr": "IRR ", "esp-peseta": "₧",
    "ars": "AR$", "clp": "CLP$",
}  # fmt: skip

# What holds values without names inside a line, and yet no words of it.
_DROPPED_BEGINNINGS = (
    "cite|citation|cit |cita requerida|sfn|harv|efn|refn|ref |note |ipa|infobox|navbox|flagicon|audio|coord|anchor|"
    "page need|pp-|use |short desc|defaultsort|displaytitle|commons|wikisource|wiktionary|wikiquote|wikidata|sister|"
    "portal|#|see |main |further|for |about |other use|redirect|hatnote|pronun|respell|inflation|webarchive|dead link|"
    "better source|clarif|failed ver|verif|update |toc|reflist|notelist|authority|imdb|official|youtube|find a|google|"
    "ouvrage|lien web|article|литература|книга|notetag|notefoot|noteta|lautschrift|internetquelle|literatur|dnb|doi|"
    "isbn|issn|oclc|jstor|pmid|pmc|arxiv|bibcode|lccn|hdl|s2cid|zbl|ntsh|multiple image|gallery|location map|template"
)
DROPPED_BEGINNINGS = tuple(_DROPPED_BEGINNINGS.split("|"))
DROPPED = frozenset(
    listed(
        """
        r  rp  cn  ref  refname  note  notes  fn  fnb  fnz  anm  anker  ancre  ancla  âncora  якорь  переход  参照  參
        脚注  註  r1  rf  rs  snf  mcref  cref  cref2  group  for  main  about  file  image  icon  clear  update  listen
        lautsprecher  spoken  pron  api  api-fr  afi  fonte  мфа  мфа2  発音  icd10  icd9  mesh  omim  fact  who  when
        by whom  which  according to whom  vague  dubious  nonspecific  specify  where  why  how  what  whom  quantify
        pov statement  lopsided  time needed  date missing  sps  psc  or  ambiguous  awkward  buzz  elucidate  typo help
        inconsistent  dn  disambiguation needed  needdab  not in source  source needed  volume needed  isbn missing
        0  00  000  hidden  hid  zws  nts hidden  sortkey  color box  colorbox  legend line  box  flagdeco  ficon
        lsj  sep  oed  iep  dmoz  philpapers  inpho  odnb  eb1911  s.  pp.  p.  p  vol.  bref  osm  gnis  nom  pending
        won  yes  no  partial  maybe  n/a  tba  increase  decrease  steady  profit  loss  gain  sup-ref  fossil range
        fossilrange  stub  bots  nobots  tl  tlp  para  ping  mapframe  maplink  kml  wide image  css image crop  stack
        side box  wayback  cbignore  subscription required  registration required  closed access  open access
        нет аи  источник  когда  кто  где  что  уточнить  стиль  来源请求  來源請求  要出典  誰  いつ
        """
    )
)

# Names in English of the languages that articles quote most, as {{langx}} shows them.
LANGUAGES = {
    code: name.replace("_", " ")
    for code, name in (
        pair.split("=")
        for pair in [
            "af=Afrikaans",
            "ain=Ainu",
            "sq=Albanian",
            "am=Amharic",
            "ar=Arabic",
            "arc=Aramaic",
            "hy=Armenian",
            "as=Assamese",
            "az=Azerbaijani",
            "ba=Bashkir",
            "eu=Basque",
            "be=Belarusian",
            "bn=Bengali",
            "bs=Bosnian",
            "br=Breton",
            "bg=Bulgarian",
            "my=Burmese",
            "ca=Catalan",
            "ceb=Cebuano",
            "ce=Chechen",
            "zh=Chinese",
            "cop=Coptic",
            "co=Corsican",
            "crh=Crimean_Tatar",
            "hr=Croatian",
            "cs=Czech",
            "da=Danish",
            "dv=Dhivehi",
            "nl=Dutch",
            "dz=Dzongkha",
            "en=English",
            "eo=Esperanto",
            "et=Estonian",
            "fo=Faroese",
            "fj=Fijian",
            "fil=Filipino",
            "fi=Finnish",
            "fr=French",
            "fy=West_Frisian",
            "fur=Friulian",
            "gl=Galician",
            "ka=Georgian",
            "de=German",
            "got=Gothic",
            "el=Greek",
            "grc=Ancient_Greek",
            "kl=Greenlandic",
            "gn=Guarani",
            "gu=Gujarati",
            "ht=Haitian_Creole",
            "ha=Hausa",
            "haw=Hawaiian",
            "he=Hebrew",
            "hi=Hindi",
            "hu=Hungarian",
            "is=Icelandic",
            "ig=Igbo",
            "id=Indonesian",
            "ga=Irish",
            "it=Italian",
            "ja=Japanese",
            "jv=Javanese",
            "kn=Kannada",
            "ks=Kashmiri",
            "kk=Kazakh",
            "km=Khmer",
            "ko=Korean",
            "ku=Kurdish",
            "ckb=Central_Kurdish",
            "ky=Kyrgyz",
            "lo=Lao",
            "la=Latin",
            "lv=Latvian",
            "lt=Lithuanian",
            "lb=Luxembourgish",
            "mk=Macedonian",
            "mg=Malagasy",
            "ms=Malay",
            "ml=Malayalam",
            "mt=Maltese",
            "gv=Manx",
            "mi=Māori",
            "mr=Marathi",
            "mn=Mongolian",
            "nah=Nahuatl",
            "nv=Navajo",
            "ne=Nepali",
            "no=Norwegian",
            "nb=Norwegian_Bokmål",
            "nn=Norwegian_Nynorsk",
            "oc=Occitan",
            "or=Odia",
            "ang=Old_English",
            "non=Old_Norse",
            "om=Oromo",
            "os=Ossetian",
            "ota=Ottoman_Turkish",
            "pi=Pali",
            "ps=Pashto",
            "fa=Persian",
            "phn=Phoenician",
            "pl=Polish",
            "pt=Portuguese",
            "pa=Punjabi",
            "qu=Quechua",
            "ro=Romanian",
            "rm=Romansh",
            "ru=Russian",
            "sm=Samoan",
            "sa=Sanskrit",
            "sc=Sardinian",
            "sco=Scots",
            "gd=Scottish_Gaelic",
            "sr=Serbian",
            "sh=Serbo-Croatian",
            "sn=Shona",
            "scn=Sicilian",
            "sd=Sindhi",
            "si=Sinhala",
            "sk=Slovak",
            "sl=Slovene",
            "so=Somali",
            "es=Spanish",
            "su=Sundanese",
            "sw=Swahili",
            "sv=Swedish",
            "syr=Syriac",
            "tl=Tagalog",
            "tg=Tajik",
            "ta=Tamil",
            "tt=Tatar",
            "te=Telugu",
            "th=Thai",
            "bo=Tibetan",
            "ti=Tigrinya",
            "to=Tongan",
            "tr=Turkish",
            "tk=Turkmen",
            "uk=Ukrainian",
            "ur=Urdu",
            "ug=Uyghur",
            "uz=Uzbek",
            "vec=Venetian",
            "vi=Vietnamese",
            "cy=Welsh",
            "wo=Wolof",
            "xh=Xhosa",
            "yi=Yiddish",
            "yo=Yoruba",
            "zu=Zulu",
        ]
    )
}
