package tftp

import (
	"errors"
	"testing"
	"time"
)

func TestATimeoutKeepsNoPlaceForLong(t *testing.T) {
	t.Parallel()
	var s Server
	s.setDefaults()
	for asked, agreed := range map[string]bool{"1": true, "60": true, "61": false, "255": false} {
		x := transfer{ask: rrq{options: []option{{"timeout", asked}}}}
		x.negotiate(&s)
		if (x.oack != nil) != agreed {
			t.Errorf("timeout %s: answered with %q", asked, x.oack)
		}
		now := time.Now()
		x.phase, x.timing.began = offering, now.Add(-2*maxTimeout*time.Second)
		if err := x.check(now, s.Retries); !errors.Is(err, errSilent) {
			t.Errorf("timeout %s: the client has its place after two minutes of silence", asked)
		}
	}
}
