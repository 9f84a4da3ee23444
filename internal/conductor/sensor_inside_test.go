package conductor

import (
	"fmt"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// However many parts a BMC makes up, the row and the journal get a few, and the same ones again.
func TestPartsOnRecordAreBounded(t *testing.T) {
	t.Parallel()
	var all []driver.Reading
	for i := range 300 {
		all = append(all, driver.Reading{Kind: driver.Fan, ID: fmt.Sprint(i), Health: "Critical"})
	}
	n := &ingot.Node{}
	for _, want := range []int{maxParts, 0} {
		unwell, news := partNews(n, all)
		if len(unwell) != maxParts || len(news) != want {
			t.Errorf("%d on record, %d told, want %d", len(unwell), len(news), want)
		}
		n.DriverInternalInfo = ingot.Object{partsKey: unwell}
	}
	if _, news := partNews(n, nil); len(news) > 0 {
		t.Errorf("told of what the BMC does not tell: %v", news)
	}
}
