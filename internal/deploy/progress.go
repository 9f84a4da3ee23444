package deploy

import (
	"sync"
	"time"
)

// Progress is how far a copy is.
type Progress struct {
	// Done and Total are bytes of the image; Total is -1 if only the end will tell.
	Done, Total int64
	// Rate is the average since the start in bytes a second. Zeros count as they would be read
	// back, so sparse images are fast.
	Rate int64
	// ETA is the time that the rest will take at this rate, or -1 if that is unknown.
	ETA time.Duration
}

// progressInterval is the time between two reports.
const progressInterval = 250 * time.Millisecond

// reporter calls a function at intervals with what the counters say.
type reporter struct {
	count *counters
	total int64
	tell  func(Progress)
	start time.Time

	quit    chan struct{}
	running sync.WaitGroup
}

func startReporter(count *counters, total int64, tell func(Progress)) *reporter {
	r := &reporter{
		count: count, total: total, tell: tell, start: time.Now(), quit: make(chan struct{}),
	}
	if tell != nil {
		r.running.Go(r.run)
	}
	return r
}

func (r *reporter) run() {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.tell(r.now())
		case <-r.quit:
			return
		}
	}
}

// stop ends the calls after a last one.
func (r *reporter) stop() {
	close(r.quit)
	r.running.Wait()
	if r.tell != nil {
		r.tell(r.now())
	}
}

func (r *reporter) now() Progress {
	p := Progress{Total: r.total, ETA: -1}
	// Padding of the last block is no part of the image.
	p.Done = min(r.count.written.Load()+r.count.zeroed.Load(), r.count.read.Load())
	if spent := time.Since(r.start); spent > 0 {
		p.Rate = int64(float64(p.Done) / spent.Seconds())
	}
	if p.Total >= 0 && p.Rate > 0 {
		p.ETA = time.Duration(float64(p.Total-p.Done) / float64(p.Rate) * float64(time.Second))
	}
	return p
}
