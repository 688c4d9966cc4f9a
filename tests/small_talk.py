"""Dialogues that have nothing more to say, and short ones that have: ten turns each at most, the opening first. One line a turn."""

from __future__ import annotations

# What follows an opening of one or two turns with content; all of it is thanks, praise and farewells.
EMPTY: dict[str, str] = {
    "thanks": "Thank you!|You too! 😊|Thank you so much!|You're welcome! 😊|Thanks again!|Have a great day!|You too!|Bye! 👋|Goodbye!|Take care! 😊",
    "farewells": "Goodbye!|Bye!|See you!|Take care!|Farewell!|Until next time!|So long!|Cheers!|Bye bye!|See you soon!",
    "full stops": "You are welcome. It was a pleasure.|The pleasure was mine. Goodbye.|Goodbye. Take care.|Take care. See you soon."
    "|See you soon. Goodbye.|Goodbye, and thank you.|Thank you. Take care.|You take care too.|Goodbye.|Bye.",
    "long": "Thank you so much for this wonderful conversation! I learned a lot from you.|You're so welcome! I learned a lot from you too, thank you!"
    "|It was a wonderful conversation, thank you so much! Have a great day!|You too, have a great day! Thank you for the wonderful conversation!"
    "|Thank you! I hope we can have another conversation soon!|I hope so too! Thank you again, and have a great day!"
    "|Thanks again! Have a wonderful day!|You too! Have a wonderful day, my friend!|Thank you, my friend!|Thank you!",
    "of the topic": "Thank you for sharing your thoughts on bees!|You're welcome! It was great to share my thoughts on bees with you!"
    "|Thank you again for sharing your great thoughts on bees!|You're welcome again! It was great to share thoughts with you!"
    "|It was great! Thank you for the thoughts on bees!|You're welcome! Thank you for sharing, too!|Thanks for sharing!|Thank you!|You too!|Bye!",
    "emoji": "😊|👍|🙏|😊😊|🎉|👋|😊|👍🏽|❤️|👋",
    "thanks and emoji": "Thank you! 🙏|😊|Bye! 👋|👋👋|😊|👍|🙏|Bye!|👋|😊",
    "agreeing": "Absolutely!|Exactly!|Totally!|Indeed!|Yes!|Exactly!|Absolutely!|Right!|Yes, exactly!|Indeed!",
    "hedged": "Glad to help.|Glad you could help.|Always glad to help.|I am glad that you could.|Glad to.|Always.|Me too.|Glad to help.|Always.|Me too.",
    "German": "Vielen Dank!|Gern geschehen! 😊|Danke, dir auch einen schönen Tag!|Danke, ebenfalls!|Auf Wiedersehen!|Bis bald!|Tschüss!|Mach's gut!"
    "|Danke, du auch!|Tschüss! 👋",
    "German with full stops": "Vielen Dank für das Gespräch.|Gern geschehen. Danke auch für das Gespräch.|Danke. Bis bald.|Bis bald. Tschüss."
    "|Tschüss. Mach es gut.|Mach es auch gut. Danke.|Danke. Tschüss.|Bis bald.|Bis dann.|Tschüss.",
    "Spanish": "¡Muchas gracias!|¡De nada! 😊|¡Que tengas un buen día!|¡Igualmente, gracias!|¡Hasta luego!|¡Adiós!|¡Cuídate!|¡Tú también!|¡Chao!|¡Adiós!",
    "French": "Merci beaucoup !|Je vous en prie !|Bonne journée !|Merci, à vous aussi !|Au revoir !|À bientôt !|Merci encore !|Au revoir !|Bonne soirée !|Merci !",
    "Italian": "Grazie mille!|Prego!|Buona giornata!|Grazie, anche a te!|Arrivederci!|A presto!|Ciao!|Ciao ciao!|Grazie ancora!|Ciao!",
    "Portuguese": "Muito obrigado!|De nada!|Tenha um bom dia!|Você também!|Até logo!|Tchau!|Até mais!|Obrigado!|Tchau tchau!|Até!",
    "Dutch": "Dank je wel!|Graag gedaan!|Fijne dag nog!|Jij ook, dank je!|Tot ziens!|Doei!|Tot snel!|Doei doei!|Dank je!|Doei!",
    "Polish": "Dziękuję bardzo!|Proszę bardzo!|Miłego dnia!|Dziękuję, nawzajem!|Do widzenia!|Do zobaczenia!|Pa!|Pa pa!|Dziękuję!|Pa!",
    "Russian": "Большое спасибо!|Пожалуйста! 😊|Хорошего дня!|Спасибо, и вам тоже!|До свидания!|Всего доброго!|Пока!|До встречи!|Спасибо!|Пока!",
    "Turkish": "Çok teşekkür ederim!|Rica ederim!|İyi günler!|Teşekkürler, size de!|Hoşça kalın!|Görüşürüz!|Teşekkürler!|Güle güle!|İyi günler!|Hoşça kal!",
    "Finnish": "Kiitos paljon!|Ole hyvä!|Hyvää päivänjatkoa!|Kiitos samoin!|Näkemiin!|Hei hei!|Moikka!|Kiitos!|Hei hei!|Moi moi!",
    "Swahili": "Asante sana!|Karibu sana!|Siku njema!|Asante, nawe pia!|Kwaheri!|Tutaonana!|Kwaheri ya kuonana!|Asante!|Kwaheri!|Asante!",
    "Chinese": "谢谢你！|不客气！😊|祝你有美好的一天！|你也是，谢谢！|再见！|再见，保重！|谢谢！|再见！|拜拜！|拜拜！",
    "Chinese with full stops": "谢谢你的分享。|不客气，谢谢你的分享。|非常感谢你的分享。|不客气。谢谢。|再见。|再见，谢谢你。|不客气，再见。|谢谢。|再见。|再见。",
    "Japanese": "ありがとうございます！|どういたしまして！😊|よい一日を！|ありがとうございます、あなたも！|さようなら！|またね！|じゃあね！|またね！|さようなら！|ありがとう！",
    "Japanese with full stops": "ありがとうございました。|こちらこそ、ありがとうございました。|とても楽しかったです。ありがとうございました。|こちらこそ楽しかったです。"
    "|では、また。|はい、また。|ありがとうございました。|では、また。|また。|はい。",
    "Korean": "정말 감사합니다!|천만에요! 😊|좋은 하루 되세요!|감사합니다, 당신도요!|안녕히 가세요!|안녕히 계세요!|또 봐요!|네, 또 봐요!|감사합니다!|안녕!",
    "Arabic": "شكرا جزيلا!|على الرحب والسعة! 😊|أتمنى لك يوما سعيدا!|شكرا، ولك أيضا!|مع السلامة!|إلى اللقاء!|وداعا!|شكرا!|مع السلامة!|شكرا لك!",
    "Hebrew": "תודה רבה!|בבקשה! 😊|יום נעים!|תודה, גם לך!|להתראות!|ביי!|תודה!|להתראות!|ביי ביי!|תודה!",
    "Hindi": "बहुत धन्यवाद!|आपका स्वागत है! 😊|आपका दिन शुभ हो!|धन्यवाद, आपका भी!|अलविदा!|फिर मिलेंगे!|धन्यवाद!|अलविदा!|फिर मिलेंगे!|नमस्ते!",
    "Thai": "ขอบคุณมาก!|ยินดีครับ! 😊|ขอให้เป็นวันที่ดีนะ!|ขอบคุณ คุณก็เช่นกัน!|ลาก่อน!|แล้วเจอกัน!|ขอบคุณ!|ลาก่อน!|สวัสดี!|ขอบคุณ!",
    "Greek": "Ευχαριστώ πολύ!|Παρακαλώ! 😊|Καλή σας μέρα!|Επίσης, ευχαριστώ!|Αντίο!|Τα λέμε!|Ευχαριστώ!|Γεια σας!|Αντίο!|Γεια!",
    "Vietnamese": "Cảm ơn bạn rất nhiều!|Không có gì! 😊|Chúc bạn một ngày tốt lành!|Cảm ơn, bạn cũng vậy!|Tạm biệt!|Hẹn gặp lại!|Tạm biệt bạn!|Cảm ơn!|Chào bạn!|Chào!",
}  # fmt: skip

# Short answers with content: none of these may end before its last turn. The topic stands before the colon.
TALKS: dict[str, str] = {
    "bees": "How many bees live in a hive?|Honey bees, about 40,000.|And in winter?|About 10,000.|Do they sleep?|Yes.|Do they dream?|Nobody knows.|Why not?|It was never measured.",
    "bees and wasps": "Bees make honey.|Wasps do not.|They eat insects.|Some eat fruit.|Bees eat pollen.|And nectar.|Wasps hunt flies.|Hornets hunt bees.|Bees can cook a hornet.|By heat alone.",
    "capitals": "Paris.|Rome.|Madrid.|Lisbon.|Vienna.|Prague.|Oslo.|Helsinki.|Warsaw.|Budapest.",
    "chess": "e4|e5|Nf3|Nc6|Bb5|a6|Ba4|Nf6|O-O|Be7",
    "rivers": "The Nile is the longest.|The Amazon carries more water.|Much more.|It even has dolphins.|Pink ones.|They see by sound.|So do bats.|And whales.|Whales came from land.|Hippos are their cousins.",
    "whales!": "Blue whales are huge!|Their hearts weigh as much as a car!|And they eat krill!|Four tons a day!|Krill glow in the dark!|So do squid!|Sperm whales hunt squid!|At a depth of two kilometres!|Without any light!|They use sound!",
    "coffee": "Arabica or robusta?|Arabica.|Why?|Less bitter.|And caffeine?|Robusta has more.|Twice as much?|Nearly.|Which one for espresso?|A blend.",
    "tides": "The Moon pulls the water.|And the Sun.|The Moon pulls harder.|It is nearer.|Spring tides come at full moon.|And at new moon.|Neap tides lie between.|They are lower.|The Bay of Fundy has the highest.|Sixteen metres.",
    "yes and no": "Is it an animal?|No.|Is it a plant?|Yes.|Is it a tree?|Yes.|Does it lose its leaves?|No.|Is it a pine?|Yes.",
    "bread": "Flour and water.|Salt too.|And yeast.|Or sourdough.|Sourdough takes longer.|It tastes better.|It keeps longer as well.|The acid keeps mould away.|Rye needs that acid.|Wheat does not.",
    "thanks among facts": "Thank you! How do bees dance?|In figures of eight.|Thanks! And what does the angle say?|Where the food is, seen from the sun.|Great point! And the length?|The distance."
    "|Thank you! Who found that?|Karl von Frisch.|When?|In the 1940s.",
    "polite facts": "Great question! Bees dance in figures of eight.|Thank you! The angle tells the direction from the sun.|Great point! The length of the run tells the distance."
    "|Thank you! A run of one second means a kilometre.|Good point! Noise of the wings helps in the dark.|Thank you! Dancers also give samples of nectar."
    "|Great point! Bees learn flowers by scent.|Thank you! Scent clings to the hairs of the body.|Good point! Those hairs carry static charge.|Thank you! Flowers are charged too.",
    "numbers": "2|3|5|7|11|13|17|19|23|29",
    "Bienen": "Wie viele Bienen leben im Stock?|Etwa 40.000.|Und im Winter?|Weniger.|Wie viele?|Rund 10.000.|Schlafen sie?|Ja.|Lange?|Fünf Stunden.",
    "Flüsse": "Der Nil ist lang.|Der Amazonas führt mehr Wasser.|Dort leben Delfine.|Rosa Delfine.|Sie jagen nach Gehör.|Fledermäuse auch.|Wale ebenfalls.|Wale kamen vom Land.|Flusspferde sind verwandt.|Beide tauchen gut.",
    "volcanes": "¿Qué es la lava?|Roca fundida.|¿A qué temperatura?|Unos mil grados.|¿Y el magma?|Está bajo tierra.|¿Hay gas?|Sí.|¿Cuál?|Vapor y azufre.",
    "le pain": "Farine et eau.|Du sel aussi.|Et de la levure.|Ou du levain.|Le levain prend du temps.|Il donne du goût.|La croûte devient brune.|Grâce au sucre.|Le seigle est plus dense.|Il garde mieux.",
    "вулканы": "Лава очень горячая.|Около тысячи градусов.|Магма находится под землёй.|Она поднимается вверх.|Газ толкает её.|Пар и сера.|Пепел летит далеко.|Он мешает самолётам.|Почва потом плодородна.|Там растят виноград.",
    "蜜蜂": "蜂巢里有多少蜜蜂？|大约四万只。|冬天呢？|一万只左右。|它们睡觉吗？|睡。|睡多久？|五个小时。|在哪里睡？|在蜂巢里。",
    "河流": "尼罗河最长。|亚马孙河水量最大。|那里有粉色的海豚。|它们靠声音捕猎。|蝙蝠也一样。|鲸鱼来自陆地。|河马是它们的亲戚。|河马白天泡在水里。|晚上上岸吃草。|它们的皮肤会出红汗。",
    "月": "月は海水を引く。|太陽も引く。|満月のとき潮は高い。|新月のときも高い。|半月のときは低い。|地球の自転が遅くなる。|一日が長くなる。|月は遠ざかる。|毎年四センチほど。|レーザーで測った。",
    "커피": "아라비카는 덜 쓰다.|로부스타는 카페인이 많다.|에스프레소에는 섞어 쓴다.|볶으면 기름이 나온다.|색이 검어진다.|산미는 줄어든다.|물 온도가 중요하다.|끓는 물은 쓰다.|분쇄도 역시 중요하다.|고운 가루는 빨리 우러난다.",
    "القهوة": "ما أصل القهوة؟|إثيوبيا.|ومن نقلها؟|التجار إلى اليمن.|هل الكافيين سام؟|للحشرات نعم.|وللإنسان؟|بكمية كبيرة فقط.|كم فنجانا؟|نحو مئة.",
    "चाय": "चाय असम में उगती है।|दार्जिलिंग में भी।|वहाँ ठंड अधिक है।|पत्तियाँ छोटी होती हैं।|स्वाद हल्का होता है।|दूध कम डालते हैं।|अदरक से गला ठीक रहता है।|इलायची सुगंध देती है।|काली चाय किण्वित होती है।|हरी चाय नहीं।",
    "ชา": "ชาเขียวไม่ได้หมัก|ชาดำหมักเต็มที่|อู่หลงอยู่ตรงกลาง|น้ำร้อนจัดทำให้ขม|ใบอ่อนราคาแพง|เก็บด้วยมือ|ฤดูใบไม้ผลิดีที่สุด|ญี่ปุ่นนึ่งใบชา|จีนคั่วในกระทะ|กลิ่นจึงต่างกัน",
    "ηφαίστεια": "Τι είναι η λάβα;|Λιωμένος βράχος.|Πόσο ζεστή είναι;|Χίλιους βαθμούς.|Και το μάγμα;|Κάτω από τη γη.|Έχει αέρια;|Ναι.|Ποια;|Ατμό και θείο.",
    "music": "Jazz came from New Orleans.|Blues came first.|Ragtime too.|Swing filled ballrooms.|Bebop emptied them.|Too fast to dance.|Parker played it.|And Gillespie.|Monk wrote odd tunes.|Miles slowed down.",
    "elements": "Iron rusts.|Gold does not.|Copper turns green.|Silver turns black.|Zinc protects iron.|Tin lines cans.|Lead is soft.|Mercury is liquid.|Neon glows red.|Argon glows blue.",
    "proofs": "Let n be even.|Then n is 2k.|Its square is 4kk.|So it is even.|The converse holds too.|By contraposition.|Odd times odd is odd.|Hence root two is irrational.|That shocked the Greeks.|Hippasus drowned for it.",
    "cooking!": "Salt the water!|Never rinse the pasta!|Save a cup of the water!|Starch binds the sauce!|Garlic burns fast!|Low heat then!|Basil goes in last!|Tear it, never chop!|Butter makes it glossy!|Cheese off the heat!",
}  # fmt: skip
OPENING = ("Let us talk about {topic}. What do you find most surprising?", "That nobody understood it for two thousand years, and that it is so simple.")
