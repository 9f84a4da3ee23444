package journal_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/journal"
)

func TestAStrangerIsMentionedOnceAnHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h journal.Hourly
		if !h.First("a") || h.First("a") || !h.First("b") {
			t.Error("the first mention passes, and only that")
		}
		time.Sleep(time.Hour)
		if !h.First("a") {
			t.Error("not mentioned again after an hour")
		}
		passed := 0
		for i := range 10000 {
			if h.First(fmt.Sprint(i)) {
				passed++
			}
		}
		if passed > 100 {
			t.Errorf("a flood of %d names passed", passed)
		}
	})
}
