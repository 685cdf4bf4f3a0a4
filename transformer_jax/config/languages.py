"""Languages by their ISO 639 codes, and the two of a direction."""

import re

from transformer_jax.errors import UserError

__all__ = [
    "SPACELESS",
    "WITHOUT_SPACES",
    "check_direction",
    "check_language",
    "is_direction",
    "languages_of",
    "short_code",
]

# ISO 639-1 and the same language in ISO 639-3; sh and bh are withdrawn, but corpora still use them.
_CODES = (
    "aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara as=asm av=ava ay=aym az=aze ba=bak "
    "be=bel bg=bul bh=bih bi=bis bm=bam bn=ben bo=bod br=bre bs=bos ca=cat ce=che ch=cha co=cos "
    "cr=cre cs=ces cu=chu cv=chv cy=cym da=dan de=deu dv=div dz=dzo ee=ewe el=ell en=eng eo=epo "
    "es=spa et=est eu=eus fa=fas ff=ful fi=fin fj=fij fo=fao fr=fra fy=fry ga=gle gd=gla gl=glg "
    "gn=grn gu=guj gv=glv ha=hau he=heb hi=hin ho=hmo hr=hrv ht=hat hu=hun hy=hye hz=her ia=ina "
    "id=ind ie=ile ig=ibo ii=iii ik=ipk io=ido is=isl it=ita iu=iku ja=jpn jv=jav ka=kat kg=kon "
    "ki=kik kj=kua kk=kaz kl=kal km=khm kn=kan ko=kor kr=kau ks=kas ku=kur kv=kom kw=cor ky=kir "
    "la=lat lb=ltz lg=lug li=lim ln=lin lo=lao lt=lit lu=lub lv=lav mg=mlg mh=mah mi=mri mk=mkd "
    "ml=mal mn=mon mr=mar ms=msa mt=mlt my=mya na=nau nb=nob nd=nde ne=nep ng=ndo nl=nld nn=nno "
    "no=nor nr=nbl nv=nav ny=nya oc=oci oj=oji om=orm or=ori os=oss pa=pan pi=pli pl=pol ps=pus "
    "pt=por qu=que rm=roh rn=run ro=ron ru=rus rw=kin sa=san sc=srd sd=snd se=sme sg=sag sh=hbs "
    "si=sin sk=slk sl=slv sm=smo sn=sna so=som sq=sqi sr=srp ss=ssw st=sot su=sun sv=swe sw=swa "
    "ta=tam te=tel tg=tgk th=tha ti=tir tk=tuk tl=tgl tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi "
    "ty=tah ug=uig uk=ukr ur=urd uz=uzb ve=ven vi=vie vo=vol wa=wln wo=wol xh=xho yi=yid yo=yor "
    "za=zha zh=zho zu=zul"
)
_LONG = dict(pair.split("=") for pair in _CODES.split())
# Written without spaces between words, and without a tokenizer in sacreBLEU: there is no word for
# BLEU to count.
SPACELESS = frozenset(["bo", "dz", "km", "lo", "my", "th"])
WITHOUT_SPACES = SPACELESS | {"ja", "zh"}
# Then the older codes of ISO 639-2, and of Chinese its languages.
_SHORT = {long: short for short, long in _LONG.items()} | {
    "alb": "sq", "arm": "hy", "baq": "eu", "bur": "my", "chi": "zh", "cmn": "zh", "cze": "cs",
    "dut": "nl", "fre": "fr", "geo": "ka", "ger": "de", "gre": "el", "hbs": "sh", "ice": "is",
    "mac": "mk", "mao": "mi", "may": "ms", "per": "fa", "rum": "ro", "slo": "sk", "tib": "bo",
    "wel": "cy", "wuu": "zh", "yue": "zh",
}  # fmt: skip


def check_language(code: str) -> None:
    """Raise UserError unless a code is two letters of ISO 639-1 or three of ISO 639-3.

    >>> check_language("de"), check_language("yue")
    (None, None)
    """
    if code not in _LONG and not re.fullmatch("[a-z]{3}", code):
        raise UserError(
            f"{code!r} is not a language code: give two letters of ISO 639-1, as de, or three of "
            "ISO 639-3, as yue"
        )


def short_code(code: str) -> str:
    """The code by which the rules of a language are known.

    >>> short_code("jpn"), short_code("fr")
    ('ja', 'fr')
    """
    return _SHORT.get(code, code)


def check_direction(direction: str) -> None:
    """UserError for what is not the codes of two different languages."""
    for code in languages_of(direction):
        check_language(code)


def is_direction(direction: str) -> bool:
    """
    >>> is_direction("en-de"), is_direction("en-eng"), is_direction("german")
    (True, False, False)

    Cantonese and Wu share the rules of Chinese, and are languages beside it.
    >>> is_direction("zh-yue"), is_direction("zh-cmn")
    (True, False)
    """
    found = re.fullmatch(r"([a-z]{2,3})-([a-z]{2,3})", direction)
    if found is None:
        return False
    one, other = (code if code in ("wuu", "yue") else short_code(code) for code in found.groups())
    return one != other


def languages_of(direction: str) -> tuple[str, str]:
    """Source and target language of a direction; UserError if it is not one.

    >>> languages_of("en-de")
    ('en', 'de')
    """
    if not is_direction(direction):
        raise UserError(
            f"direction {direction!r} is not two different languages with a hyphen between them, "
            "as in en-de or de-en"
        )
    source, _, target = direction.partition("-")
    return source, target
