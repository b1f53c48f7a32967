"""Training examples that a chat model makes (HarmAug, arXiv 2410.01524), each with a soft label of a teacher."""

from lec_guard.train.harmaug.config import AugmentConfig as AugmentConfig
from lec_guard.train.harmaug.config import ModelConfig as ModelConfig
from lec_guard.train.harmaug.config import TeacherConfig as TeacherConfig
from lec_guard.train.harmaug.costs import Estimate as Estimate
from lec_guard.train.harmaug.costs import estimate as estimate
from lec_guard.train.harmaug.exemplars import Exemplars as Exemplars
from lec_guard.train.harmaug.models import AugmentError as AugmentError
from lec_guard.train.harmaug.models import Models as Models
from lec_guard.train.harmaug.models import Prompt as Prompt
from lec_guard.train.harmaug.models import Said as Said
from lec_guard.train.harmaug.models import TextModel as TextModel
from lec_guard.train.harmaug.report import Report as Report
from lec_guard.train.harmaug.run import aaugment as aaugment
from lec_guard.train.harmaug.run import augment as augment
