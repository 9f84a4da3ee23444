package conductor

import (
	"testing"
	"time"
)

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
