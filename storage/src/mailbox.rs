//! The queue of a thread that sleeps at once when there is nothing for it.
//!
//! It is crossbeam's channel, but for the wait: that one spins and then yields before it sleeps, for a message that may
//! be there within microseconds. Between two rounds of the journal lie hundreds, and with two processors each yield
//! was a switch to a thread and back: at 1,000 records a second 6 of 16 switches per record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Instant;

use crossbeam::channel::{self, Receiver, Sender, TryRecvError};
use crossbeam::sync::{Parker, Unparker};

/// Where messages are left; cheap to clone.
pub(crate) struct Post<T> {
    /// Always there but while the last of them is dropped.
    sender: Option<Sender<T>>,
    door: Arc<Door>,
}

/// Where they are taken, by one thread.
pub(crate) struct Mailbox<T> {
    receiver: Receiver<T>,
    parker: Parker,
    door: Arc<Door>,
}

struct Door {
    /// Whether the reader sleeps, or is about to.
    is_shut: AtomicBool,
    bell: Unparker,
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMail {
    /// The deadline has passed.
    Late,
    /// There is none, and nobody is left who could leave some.
    Closed,
}

/// A mailbox for so many messages, or any number.
pub(crate) fn mailbox<T>(bound: Option<usize>) -> (Post<T>, Mailbox<T>) {
    let (sender, receiver) = bound.map_or_else(channel::unbounded, channel::bounded);
    let parker = Parker::new();
    let door = Arc::new(Door {
        is_shut: AtomicBool::new(false),
        bell: parker.unparker().clone(),
    });
    let post = Post {
        sender: Some(sender),
        door: Arc::clone(&door),
    };
    let mailbox = Mailbox {
        receiver,
        parker,
        door,
    };
    (post, mailbox)
}

impl<T> Post<T> {
    /// Leaves a message; waits while the mailbox is full. Gives it back when nobody will take it.
    pub(crate) fn send(&self, message: T) -> Result<(), T> {
        let Some(sender) = &self.sender else {
            return Err(message);
        };
        sender
            .send(message)
            .map_err(channel::SendError::into_inner)?;
        self.door.ring();
        Ok(())
    }
}

impl<T> Clone for Post<T> {
    fn clone(&self) -> Post<T> {
        Post {
            sender: self.sender.clone(),
            door: Arc::clone(&self.door),
        }
    }
}

impl<T> Drop for Post<T> {
    fn drop(&mut self) {
        // The reader has to find the channel closed, so that has to be first.
        self.sender = None;
        self.door.ring();
    }
}

impl Door {
    fn ring(&self) {
        // Pairs with the one in `Mailbox::recv`: either the reader sees the message or this its sleep.
        fence(Ordering::SeqCst);
        if self.is_shut.load(Ordering::Relaxed) && self.is_shut.swap(false, Ordering::Relaxed) {
            self.bell.unpark();
        }
    }
}

impl<T> Mailbox<T> {
    /// A message that is there.
    pub(crate) fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// The next message; sleeps until there is one, or until a deadline.
    pub(crate) fn recv(&self, deadline: Option<Instant>) -> Result<T, NoMail> {
        loop {
            if let Some(found) = self.look() {
                return found;
            }
            self.door.is_shut.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // Nothing that came before the door was shut rings the bell.
            let found = self.look().or_else(|| match deadline {
                Some(deadline) if deadline <= Instant::now() => Some(Err(NoMail::Late)),
                Some(deadline) => {
                    self.parker.park_deadline(deadline);
                    None
                }
                None => {
                    self.parker.park();
                    None
                }
            });
            self.door.is_shut.store(false, Ordering::Relaxed);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// What is there now: a message, or nobody.
    fn look(&self) -> Option<Result<T, NoMail>> {
        match self.receiver.try_recv() {
            Ok(message) => Some(Ok(message)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(NoMail::Closed)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn each_message_wakes_the_reader_and_the_last_word_too() {
        const EACH: u64 = 50_000;
        let (post, mailbox) = mailbox(Some(4));
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let post = post.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        post.send(number).unwrap();
                        if number % 1000 == 0 {
                            // Long enough for the reader to fall asleep.
                            std::thread::sleep(Duration::from_micros(200));
                        }
                    }
                })
            })
            .collect();
        drop(post);
        let mut sum = 0;
        let closed = loop {
            match mailbox.recv(None) {
                Ok(number) => sum += number,
                Err(why) => break why,
            }
        };
        assert_eq!(closed, NoMail::Closed);
        assert_eq!(sum, 3 * EACH * (EACH - 1) / 2);
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap());
    }

    #[test]
    fn a_deadline_ends_the_wait_and_takes_nothing() {
        let (post, mailbox) = mailbox(None);
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(mailbox.recv(soon()), Err(NoMail::Late));
        post.send(1).unwrap();
        // Late, and yet not in vain.
        assert_eq!(mailbox.recv(Some(Instant::now())), Ok(1));
        assert_eq!(mailbox.try_recv(), None);
        drop(mailbox);
        assert_eq!(post.send(2), Err(2));
    }
}
