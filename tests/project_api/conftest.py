"""What the tests of devices have, for templates."""

from tests.micro.conftest import running as running
