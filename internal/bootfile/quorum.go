package bootfile

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"ingot/internal/ingot"
)

const (
	// sayAfter is how long a wait goes on before anybody is told of it.
	sayAfter = 500 * time.Millisecond
	// lateFor is how long nobody waits again for a conductor that did not get ready in time.
	lateFor = 10 * time.Minute
)

// Quorum is how many conductors have to be ready before a machine is started. The zero value is all
// of them, at once.
type Quorum struct {
	// Size is how many; 0 is all that live.
	Size int
	// Timeout is how long they are waited for.
	Timeout time.Duration

	mu sync.Mutex
	// late has the conductors that were not ready in time, and since when.
	late map[string]time.Time
}

// Wait is one wait for conductors to be ready.
type Wait struct {
	// Ready says what they are, "kernel and ramdisk are held by"; Late what has gone wrong with the
	// others, "kernel and ramdisk did not arrive there".
	Ready, Late string
	// Have counts the conductors that are ready without being asked.
	Have int
	// Others returns the conductors to wait for, URLs by name. It is asked again and again: nobody
	// waits for the dead.
	Others func() map[string]string
	// Ask tells whether the one at a URL is ready, and if not why, "" for nothing to say. It is
	// repeated until it is.
	Ask func(ctx context.Context, url string) (ready bool, why string)
	// Say is told for whom it waits.
	Say func(level, text string)
}

// said is what one conductor answered.
type said struct {
	url, why string
	ready    bool
}

// Await returns when enough conductors are ready. At the deadline it goes on if Size is all, with a
// warning; else it is Unavailable.
func (q *Quorum) Await(ctx context.Context, w Wait) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := time.NewTimer(q.Timeout)
	defer deadline.Stop()
	asked, ready, why := map[string]bool{}, map[string]bool{}, map[string]string{}
	answers := make(chan said)
	told := ""
	begun := time.Now()
	for {
		others := w.Others()
		var missing []string
		have, wait := w.Have, 0
		for host, url := range others {
			if !asked[url] {
				asked[url] = true
				go w.ask(ctx, url, answers)
			}
			switch {
			case ready[url]:
				have++
				q.setLate(host, false)
			case q.isLate(host):
				missing = append(missing, host+" (was late before)")
			case why[url] != "":
				missing = append(missing, host+" ("+why[url]+")")
				wait++
			default:
				missing = append(missing, host)
				wait++
			}
		}
		slices.Sort(missing)
		if q.Size == 0 && wait == 0 || q.Size > 0 && have >= q.Size {
			return nil
		}
		text := strings.Join(missing, ", ")
		if text == "" {
			text = "more conductors"
		}
		pause := sayAfter - time.Since(begun)
		if pause <= 0 {
			pause = missingInterval
			if text != told {
				told = text
				w.Say(ingot.LevelInfo, w.Ready+" "+plural(have)+"; waiting for "+text)
			}
		}
		select {
		case a := <-answers:
			ready[a.url], why[a.url] = a.ready, a.why
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait until %s %s, too: %w", w.Ready, text, ctx.Err())
		case <-deadline.C:
			if alive := w.Have + len(others); q.Size > alive {
				return ingot.Errorf(ingot.Unavailable, "[boot] quorum is %d, but no more than %s that can "+
					"serve the node lived within %s: start more, or lower the quorum", q.Size,
					plural(alive), q.Timeout)
			}
			if q.Size > 0 {
				return ingot.Errorf(ingot.Unavailable, "%s %s after %s, but [boot] quorum is %d; waited "+
					"for %s: look there, or lower the quorum", w.Ready, plural(have), q.Timeout, q.Size,
					text)
			}
			for host, url := range others {
				q.setLate(host, !ready[url])
			}
			w.Say(ingot.LevelWarning, fmt.Sprintf("going on without %s: %s within %s; look at the log "+
				"there", text, w.Late, q.Timeout))
			return nil
		}
	}
}

// ask asks one conductor until it is ready or ctx ends.
func (w *Wait) ask(ctx context.Context, url string, answers chan<- said) {
	for {
		ready, why := w.Ask(ctx, url)
		select {
		case answers <- said{url, why, ready}:
		case <-ctx.Done():
			return
		}
		if ready {
			return
		}
		select {
		case <-time.After(missingInterval):
		case <-ctx.Done():
			return
		}
	}
}

func plural(n int) string {
	if n == 1 {
		return "1 conductor"
	}
	return fmt.Sprintf("%d conductors", n)
}

func (q *Quorum) isLate(host string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Since(q.late[host]) < lateFor
}

func (q *Quorum) setLate(host string, yes bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !yes {
		delete(q.late, host)
		return
	}
	if q.late == nil {
		q.late = map[string]time.Time{}
	}
	q.late[host] = time.Now()
}

// Await returns when enough conductors that live and have a hardware type hold files which Hold has
// returned, so that a machine can boot from any of them (S0.6). Each is asked for the files, which has it
// fetch them, and nothing else: what it says is what machines will be told. say is told for whom it
// waits.
func (k *Keeper) Await(ctx context.Context, hardware string, files []ingot.File,
	say func(level, text string)) error {
	if k.Others == nil || k.Quorum.Size == 1 {
		return nil
	}
	have := 1
	if slices.ContainsFunc(files, func(f ingot.File) bool { return !k.Cache.Held(f.SHA256) }) {
		have = 0
		say(ingot.LevelWarning, k.Host+" cannot keep kernel and ramdisk, see its log; the machine gets "+
			"them from other conductors")
	}
	return k.Quorum.Await(ctx, Wait{
		Ready: "kernel and ramdisk are held by", Late: "kernel and ramdisk did not arrive there",
		Have: have, Others: func() map[string]string { return k.Others(hardware) }, Say: say,
		Ask: func(ctx context.Context, base string) (bool, string) {
			for _, f := range files {
				if !k.confirms(ctx, base+"/files/"+f.SHA256+"/"+f.SHA256) {
					return false, ""
				}
			}
			return true, ""
		},
	})
}

func (k *Keeper) confirms(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false
	}
	resp, err := k.Cache.client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
