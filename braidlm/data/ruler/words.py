"""Words for keys and lists: a short list of our own, or the one that RULER uses.

The order of the lists is part of the data: a word that is moved changes every generated item.
"""

from __future__ import annotations

from dataclasses import dataclass

from braidlm.data.compression import needs
from braidlm.errors import InputError


@dataclass(frozen=True)
class Words:
    """Lists of different words."""

    name: str
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]

    @property
    def n_pairs(self) -> int:
        """How many keys of an adjective and a noun there are."""
        return len(self.adjectives) * len(self.nouns)

    def pair(self, number: int) -> str:
        """Return a key, such as "calm-river"."""
        adjective, noun = divmod(int(number), len(self.nouns))
        return f"{self.adjectives[adjective]}-{self.nouns[noun]}"

    def all(self) -> list[str]:
        """Return every word once, sorted."""
        return sorted({*self.nouns, *self.adjectives, *self.verbs})


def load_words(name: str) -> Words:
    """Return the lists of a name.

    Args:
        name: "built-in", or "wonderwords", RULER's, from the package of that name.

    Raises:
        InputError: another name, or the package is not installed.
    """
    if name == "built-in":
        return Words(name, NOUNS, ADJECTIVES, VERBS)
    if name != "wonderwords":
        raise InputError(f"words = '{name}': must be 'built-in' or 'wonderwords'")
    try:
        from wonderwords import RandomWord
    except ImportError:
        raise needs("wonderwords", "ruler", "words = 'wonderwords'") from None
    kinds = ("noun", "adjective", "verb")
    lists = [RandomWord().filter(include_categories=[kind]) for kind in kinds]
    return Words(name, *(tuple(dict.fromkeys(found)) for found in lists))


_NOUNS = """
acorn anchor apple apron arch arrow atlas attic badge bakery balcony ballot bamboo banjo barn
barrel basin basket beach beacon bean bench berry bicycle bishop blanket blossom boat bonnet book
boot bottle boulder bowl branch brass bread brick bridge broom brush bucket buckle bundle butter
button cabin cactus camel camera candle canoe canvas canyon captain carpet carrot castle cavern
cedar cellar chain chair chalk cherry chest chimney cider circle citizen clay cliff clock cloud
clover coast cobra coffee coin comet compass copper coral corner cottage cotton cradle crane
crayon creek cricket crown crystal curtain daisy dancer desert diamond dinner dolphin donkey
doorway dragon drawer drum eagle easel echo elbow elm ember engine falcon farmer feather fence
fern ferry fiddle field finger flag flame flask flute forest fork fountain fox frost furnace
galaxy garden garlic gate geyser ginger glacier glove goblet goose grain granite grape gravel
grove guitar hammer harbor harp hazel hedge helmet heron hill hinge honey horizon hornet horse
hotel island ivory jacket jaguar jar jewel jungle kettle kitchen kite ladder lagoon lamp lantern
lark leaf lemon letter lighthouse lily lion lizard locket loom lotus magnet mango mantle maple
marble market marsh meadow melon merchant meteor mill mirror mitten monk moon mountain museum
napkin nest nettle oasis oboe ocean olive onion orbit orchard otter oven owl paddle paint palace
paper parrot pasture pearl pebble pepper piano pier pigeon pillow pine pirate pitcher planet plum
pocket pond poppy porch portrait potato prairie puzzle quarry quilt rabbit radish raft rail
rainbow raven reef ribbon ridge river robin rocket roof rope rose saddle sail salmon salt sandal
scarf school shell shield shore shovel signal silk silver singer sketch slope smoke snail soap
sparrow spider spoon spruce squirrel stable stair star station stone stove straw stream street
sugar summit sunset swan table tailor temple thistle thread thunder tiger timber toast torch
tower trail train treasure tulip tunnel turtle valley vase velvet village vine violin wagon
walnut water whale wheat wheel whistle willow window winter wolf wool zebra
"""
NOUNS = tuple(_NOUNS.split())
"""Different nouns."""

_ADJECTIVES = """
able amber ancient bold brave breezy brief bright brisk broad calm careful casual cheerful clean
clear clever cold cosy crisp curious daring deep dense distant dry dull eager early easy elegant
empty even exact faint fair famous fancy fast fertile fierce final fine firm flat fluffy fond
formal fragile frank free fresh friendly full gentle giant glad golden grand grave great green
handy happy hard harsh heavy hidden hollow honest huge humble icy idle joyful keen kind large
late lazy lean light lively local lonely long loud lovely low loyal lucky mellow merry mighty
mild modern modest narrow neat new nimble noble noisy odd old open orange pale patient plain
polite proud pure purple quick quiet rapid rare ready rich ripe robust rough round royal rusty
sharp shiny short shy silent simple sleek slim slow small smart smooth soft solid sour spare
steady steep still strange strict strong sturdy subtle sunny sweet swift tall tame tender thick
thin tidy tiny tough tranquil true vast vivid warm wary wet wide wild wise witty wooden young
"""
ADJECTIVES = tuple(_ADJECTIVES.split())
"""Different adjectives."""

_VERBS = """
accept admire agree allow answer appear argue arrive ask avoid bake balance become begin believe
belong borrow bounce bow breathe bring build carry catch choose climb collect compare consider
cook count create cross dance decide deliver describe develop discover divide draw dream drift
drive earn eat enjoy enter escape examine explain explore fail fall feed feel find finish fix
float fold follow forget forgive gather give glide glow grow guess guide hear help hesitate hide
hope hurry imagine improve include invent invite join juggle jump keep knit know laugh lead lean
learn leave lend lift listen live look lose love measure meet melt mend mention move notice obey
observe offer own paddle pause perform plan play praise prepare pretend promise protect prove
pull push raise reach read receive remember remind repair repeat reply rescue rest return ride
ring rise roar run save search seem send serve settle share sing sit sleep smile speak spend
stand start stay study succeed suggest support suppose surprise swim take talk teach tell thank
think throw touch travel try turn understand unite visit wait wake walk wander want wash watch
weave weigh whisper win wish wonder work wrap write yawn
"""
VERBS = tuple(_VERBS.split())
"""Different verbs."""

_CITIES = """
Accra Amsterdam Ankara Athens Auckland Baghdad Bangkok Barcelona Beijing Belgrade Berlin Bogota
Boston Brisbane Brussels Budapest Cairo Calgary Caracas Casablanca Chicago Copenhagen Dakar Dallas
Delhi Denver Dublin Geneva Hamburg Hanoi Havana Helsinki Houston Istanbul Jakarta Karachi
Khartoum Kigali Kyoto Lagos Lima Lisbon London Lusaka Lyon Madrid Manila Melbourne Miami Milan
Montreal Moscow Mumbai Munich Nairobi Naples Osaka Oslo Ottawa Paris Perth Portland Prague Pune
Quito Riga Rome Santiago Seattle Seoul Shanghai Singapore Sofia Stockholm Sydney Taipei Tallinn
Tehran Tokyo Toronto Tunis Turin Vancouver Venice Vienna Vilnius Warsaw Wellington Zagreb Zurich
"""
CITIES = tuple(_CITIES.split())
"""Different cities."""
