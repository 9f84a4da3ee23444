package conductor

import (
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
)

// A password reads back as nothing, whatever it is.
func TestPasswordsOfTheFirmwareAreNotChanged(t *testing.T) {
	t.Parallel()
	now := []ingot.BIOSSetting{{Name: "Admin", Type: "Password"}, {Name: "Quiet", Value: true}}
	_, err := unlike(now, map[string]any{"Admin": "topsecret"})
	if ingot.KindOf(err) != ingot.Invalid || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("%v", err)
	}
	if left, err := unlike(now, map[string]any{"Quiet": true}); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// A machine is not switched off before it is through its start, whatever its BMC tells of the one before.
func TestAStartIsOver(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	type look struct {
		told  *bool
		after time.Duration
	}
	for name, c := range map[string]struct {
		looks []look
		want  bool
	}{
		"told":              {[]look{{&no, 0}, {&yes, time.Second}}, true},
		"under way":         {[]look{{&no, 0}, {&no, time.Hour}}, false},
		"that of before":    {[]look{{&yes, 0}, {&yes, 59 * time.Second}}, false},
		"none was seen":     {[]look{{&yes, 0}, {&yes, time.Minute}}, true},
		"silent":            {[]look{{nil, 0}, {nil, 59 * time.Second}}, false},
		"silent for long":   {[]look{{nil, 0}, {nil, time.Minute}}, true},
		"silent in between": {[]look{{&no, 0}, {nil, time.Second}}, false},
		"the first look":    {[]look{{&yes, 0}}, false},
	} {
		s, begin, got := start{enough: time.Minute}, time.Now(), false
		for _, l := range c.looks {
			got = s.over(l.told, begin.Add(l.after))
		}
		if got != c.want {
			t.Errorf("%s: over is %v", name, got)
		}
	}
}
